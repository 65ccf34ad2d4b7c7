"""Names of files in a checkpoint: those that CRIU would follow out of the container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.checkpoint import places
from runtime.checkpoint.confine import Images
from runtime.checkpoint.files import Refused
from runtime.checkpoint.wire import Message, write
from runtime.linux import mount
from runtime.tests.test_checkpoint_confine import Checkpoint

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With a procfs, and links: what is not there while it is looked at may be there later."""
    made = tmp_path / "root"
    (made / "proc").mkdir(parents=True)
    (made / "run").mkdir()
    (made / "run" / "file").touch()
    (made / "var").symlink_to("run")
    (made / "later").symlink_to("/proc/self/fd/126/../../etc")
    (made / "now").symlink_to("/proc/self/root/etc/passwd")
    (made / "p").symlink_to("proc")
    return made


@pytest.fixture
def stays(root: Path) -> places.Stays:
    found = places.within(str(root))

    def with_proc(path: str) -> bool:
        proc = os.fsencode(root / "proc")
        fd = mount.new_mount(b"proc", ())
        mount.move_mount(fd, mount.AT_FDCWD, proc)
        os.close(fd)
        try:
            return found(path)
        finally:
            mount.umount(proc)

    return with_proc


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/fd/126/../../../etc/shadow",
        "/proc/self/fd/126/etc",
        "/proc/1/root/etc/shadow",
        "/proc/4000000/root/etc/shadow",
        "/proc/4000000/task/4000000/cwd",
        "/p/4000000/fd/126",
        "/later/shadow",
        "/now",
        "/run/../proc/4000000/root",
        "//etc/shadow",
        "X/etc/shadow",
        "etc/shadow",
        "",
    ],
)
def test_ways_out_are_seen(stays: places.Stays, path: str) -> None:
    assert not stays(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/run", "/run/file", "/run/gone", "/gone/too", "/var/file", "/p/1/stat"),
        *("/proc/4000000/stat", "/proc/sys/kernel/ns_last_pid", "/root/fd/exe"),
    ],
)
def test_what_is_inside_stays(stays: places.Stays, path: str) -> None:
    assert stays(path)


def names(tmp_path: Path, *entries: Message, watches: tuple[Message, ...] = ()) -> str:
    if watches:
        (tmp_path / "inotify-wd.img").write_bytes(write("inotify-wd", watches))
    return places.strayed(Images(str(tmp_path)), entries, lambda path: path.startswith("/run"))


def test_names_are_those_of_files_sockets_and_what_is_watched(tmp_path: Path) -> None:
    assert names(tmp_path, Message.of((3, Message.of((6, "/etc")).encode()))) == "'/etc'"
    watch = Message.of((7, Message.of((4, "/etc")).encode()))
    inotify = Message.of((13, Message.of((5, watch.encode())).encode()))
    assert names(tmp_path, inotify) == "'/etc'"
    assert names(tmp_path, watches=(Message.of((7, b"")),)) == "''"  # by its handle
    (tmp_path / "inotify-wd.img").unlink()
    for name, directory, said in (
        (b"/etc/x\0", "", "'/etc'"),
        (b"x\0", "/etc", "'/etc'"),
        (b"/run/x\0", "", ""),
        (b"x\0", "/run", ""),
        (b"\0etc/x", "", ""),
        (b"", "", ""),
    ):
        socket = Message.of((11, name), (14, directory))
        assert names(tmp_path, Message.of((16, socket.encode()))) == said


@pytest.mark.parametrize("fields", [((1, 1), (2, 2), (3, 0)), ((1, 1), (2, 2))])
def test_no_name_is_taken_away(tmp_path: Path, fields: tuple[tuple[int, int], ...]) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.put("remap-fpath", "remap-fpath", Message.of(*fields))
    with pytest.raises(Refused, match="another name"):
        checkpoint.confine()


@pytest.mark.parametrize("fields", [((1, 1), (2, 2), (3, 1)), ((1, 1), (2, 1 << 31 | 2))])
def test_a_deleted_file_is_made_anew(tmp_path: Path, fields: tuple[tuple[int, int], ...]) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.put("remap-fpath", "remap-fpath", Message.of(*fields))
    assert checkpoint.confine()
