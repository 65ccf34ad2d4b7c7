"""Users and groups from an image's files. No root needed: the files lie in a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.init.identity import Accounts, find
from runtime.init.values import Identity
from runtime.spec import UserLookup

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# a comment
web:x:33:33:www:/var/www:/sbin/nologin
web2:x:34:33
odd:x:12x:1::/:
77:x:1077:1077::/home/77:/bin/sh
last:x:99:98::/home/last:/bin/sh"""
GROUP = """\
root:x:0:
audio:x:29:web,last
web:x:33:
video:x:44:last,web
broken
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("lookup", "expected"),
    [
        (UserLookup(), Identity(0, 0, (0,), "/root")),
        (UserLookup("web"), Identity(33, 33, (33, 29, 44), "/var/www")),
        (UserLookup("33"), Identity(33, 33, (33, 29, 44), "/var/www")),
        (UserLookup("web:audio"), Identity(33, 29, (29, 44), "/var/www")),
        (UserLookup("web:1234"), Identity(33, 1234, (1234, 29, 44), "/var/www")),
        (UserLookup("web:audio", group=7), Identity(33, 7, (7, 29, 44), "/var/www")),
        (UserLookup("web", merge=False), Identity(33, 33, (33,), "/var/www")),
        (UserLookup("web", supplemental=(5, 29)), Identity(33, 33, (33, 5, 29, 44), "/var/www")),
        (UserLookup("5000"), Identity(5000, 0, (0,), "")),
        (UserLookup("5000:33"), Identity(5000, 33, (33,), "")),
        (UserLookup("77"), Identity(77, 0, (0,), "")),  # digits are a number, whoever is called so
        (UserLookup("4294967294"), Identity(4294967294, 0, (0,), "")),
        (UserLookup("last"), Identity(99, 98, (98, 29, 44), "/home/last")),
    ],
)
def test_an_identity_is_found(root: int, lookup: UserLookup, expected: Identity) -> None:
    assert find(lookup, Accounts(root)) == expected


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("eve", 'user "eve" not found in the image\'s /etc/passwd'),
        ("web:eve", 'group "eve" not found in the image\'s /etc/group'),
        ("web:", 'user "web:": "user:group" needs both parts'),
        (":web", '"user:group" needs both parts'),
        (":", '"user:group" needs both parts'),
        ("odd", '"12x" is no id in 0..4294967294'),
        ("web2", "too few fields"),
        ("4294967295", "is no id"),
        ("4294967296", "is no id"),
        ("99999999999999999999", "is no id"),
        ("0:4294967295", "is no id"),
        ("-1", 'user "-1" not found'),
        ("0x0", 'user "0x0" not found'),
        ("1e3", 'user "1e3" not found'),
        (" 1", 'user " 1" not found'),
        ("+1", 'user "+1" not found'),
        ("٣", "not found"),
    ],
)
def test_what_is_no_user_is_refused_by_name(root: int, user: str, text: str) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        find(UserLookup(user), Accounts(root))
    assert text in str(caught.value)


def test_an_image_without_files_has_only_numbers(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    assert find(UserLookup("12:13"), Accounts(fd)) == Identity(12, 13, (13,), "")
    with pytest.raises(OSError, match="not found"):
        find(UserLookup("root"), Accounts(fd))
    os.close(fd)


@given(passwd=st.binary(max_size=300), group=st.binary(max_size=300), user=st.text(max_size=12))
def test_no_file_makes_it_fail_otherwise_than_by_oserror(
    tmp_path_factory: pytest.TempPathFactory, passwd: bytes, group: bytes, user: str
) -> None:
    directory = tmp_path_factory.mktemp("image")
    (directory / "etc").mkdir()
    (directory / "etc/passwd").write_bytes(passwd)
    (directory / "etc/group").write_bytes(group)
    fd = os.open(directory, os.O_PATH)
    try:
        found = find(UserLookup(user.replace("\ud800", "")), Accounts(fd))
    except OSError:
        return
    finally:
        os.close(fd)
    assert 0 <= found.uid < 2**32 - 1
    assert all(0 <= gid < 2**32 - 1 for gid in (found.gid, *found.groups))
