"""Checkpoint archives: what is packed, and what is taken of one that somebody else has made."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from image.checkpoint import diff, members, pack
from image.errors import (
    AlreadyThere,
    ArchiveMalformed,
    CheckpointRefused,
    LayerMalformed,
    StorageFull,
)
from image.settings import UnpackLimits
from image.unpack import unpack
from image.unpack.apply import Counters

GOOD = {"config.dump": b"{}", "checkpoint/inventory.img": b"x", "checkpoint/core-1.img": b"y"}
Members = Mapping[str, bytes | tarfile.TarInfo]


def archive(path: Path, entries: Members) -> Path:
    with tarfile.open(path, "w") as made:
        for name, value in entries.items():
            member = value if isinstance(value, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.name = name
            data = b"" if isinstance(value, tarfile.TarInfo) else value
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return path


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, target
    return member


def taken(path: Path, target: Path, *, reserve: int = 0) -> str:
    target.mkdir()
    into = members.Target(target, Counters(), reserve)
    members.from_archive(path, into)
    return into.config()


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}


def test_only_what_is_of_use_is_taken(tmp_path: Path) -> None:
    """CVE-2026-53489, CVE-2024-8676: logs, specs, mounts, networks are not even unpacked."""
    useless: Members = {
        "container.log": special(tarfile.SYMTYPE, "/etc/shadow"),
        "spec.dump": b"{}",
        "bind.mounts": b"{}",
        "checkpoint/netns-9.img": b"",
        "checkpoint/cgroup.img": b"",
        "checkpoint/tmpfs-dev-44.tar.gz.img": b"",
        "checkpoint/parent": special(tarfile.SYMTYPE, "/"),
        "checkpoint/../../escape": b"",
        "/etc/passwd": b"",
        "checkpoint/deep/core-1.img": b"",
    }
    assert taken(archive(tmp_path / "a.tar", {**GOOD, **useless}), tmp_path / "t") == "{}"
    assert files(tmp_path / "t") == GOOD.keys()
    assert not (tmp_path / "escape").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
@pytest.mark.parametrize("name", ["config.dump", "checkpoint/core-1.img", "rootfs-diff.tar"])
def test_nothing_but_plain_files_may_have_a_known_name(
    tmp_path: Path, kind: bytes, name: str
) -> None:
    path = archive(tmp_path / "a.tar", {**GOOD, name: special(kind, "/etc/shadow")})
    with pytest.raises(ArchiveMalformed, match=f"{name} is no plain file"):
        taken(path, tmp_path / "t")


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """Or who looks and who uses might see two different ones."""
    path = archive(tmp_path / "a.tar", {**GOOD, "./config.dump": b"other"})
    with pytest.raises(ArchiveMalformed, match="twice"):
        taken(path, tmp_path / "t")


@pytest.mark.parametrize("missing", ["config.dump", "checkpoint/inventory.img"])
def test_something_else_is_no_checkpoint(tmp_path: Path, missing: str) -> None:
    path = archive(
        tmp_path / "a.tar", {name: data for name, data in GOOD.items() if name != missing}
    )
    with pytest.raises(ArchiveMalformed, match="not a checkpoint"):
        taken(path, tmp_path / "t")


@pytest.mark.parametrize("data", [b"", b"not a tar archive" * 100])
def test_no_archive_is_no_checkpoint(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ArchiveMalformed):
        taken(tmp_path / "a.tar", tmp_path / "t")


def test_an_archive_that_is_a_fifo_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(ArchiveMalformed, match="no regular file"):
        taken(tmp_path / "a.tar", tmp_path / "t")


def test_the_nodes_last_space_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(StorageFull):
        taken(archive(tmp_path / "a.tar", GOOD), tmp_path / "t", reserve=1 << 60)


def layer(path: Path, entries: Mapping[str, bytes | str]) -> Path:
    """A str is where a symbolic link leads."""
    for name, value in entries.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(value) if isinstance(value, str) else file.write_bytes(value)
    return path


def from_layers(target: Path, *layers: Path) -> str:
    target.mkdir()
    into = members.Target(target, Counters(), 0)
    members.from_layers(layers, into)
    return into.config()


def test_an_image_gives_its_topmost_files(tmp_path: Path) -> None:
    low = layer(tmp_path / "low", {**GOOD, "checkpoint/evil": b"", "etc/passwd": b""})
    high = layer(tmp_path / "high", {"config.dump": b'{"a": 1}'})
    assert from_layers(tmp_path / "t", high, low) == '{"a": 1}'
    assert files(tmp_path / "t") == GOOD.keys()


def test_links_in_an_image_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    one = layer(tmp_path / "one", {**GOOD, "rootfs-diff.tar": str(secret)})
    with pytest.raises(ArchiveMalformed, match=r"rootfs-diff.tar is no plain file"):
        from_layers(tmp_path / "t", one)
    two = layer(
        tmp_path / "two", {"config.dump": b"{}", "checkpoint": str(tmp_path / "one/checkpoint")}
    )
    with pytest.raises(ArchiveMalformed, match="not a checkpoint"):
        from_layers(tmp_path / "u", two)


# --- writing ----------------------------------------------------------------------------------


def test_an_archive_appears_whole_and_private(tmp_path: Path) -> None:
    source = layer(tmp_path / "source", {**GOOD, "dump.log": b"log"})
    size = pack.pack(source, tmp_path / "a.tar", Counters())
    found = (tmp_path / "a.tar").stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode)) == (size, 0o600)
    with tarfile.open(tmp_path / "a.tar") as made:
        assert made.getnames()[0] == "config.dump"
        assert set(made.getnames()) == {*GOOD, "dump.log", "checkpoint"}


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("mine")
    with pytest.raises(AlreadyThere):
        pack.pack(layer(tmp_path / "source", GOOD), tmp_path / "a.tar", Counters())
    (tmp_path / "b.tar").symlink_to(tmp_path / "absent")
    with pytest.raises(AlreadyThere):
        pack.pack(tmp_path / "source", tmp_path / "b.tar", Counters())
    assert (tmp_path / "a.tar").read_text() == "mine"
    assert not (tmp_path / "absent").exists()


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    source = layer(tmp_path / "source", {**GOOD, "gone": "/no/such/file"})
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="gone"):
        pack.pack(source, tmp_path / "out" / "a.tar", Counters())
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(CheckpointRefused, match="/absent"):
        pack.pack(source, tmp_path / "absent" / "a.tar", Counters())


# --- what a container changed -----------------------------------------------------------------

LIMITS = UnpackLimits(reserve_bytes=0)


def round_trip(upper: Path, tmp_path: Path) -> Path:
    """The same directory, by way of an archive."""
    diff.write(upper, tmp_path / "diff.tar", Counters())
    target = tmp_path / "again"
    target.mkdir()
    data = (tmp_path / "diff.tar").read_bytes()
    unpack(iter([data]), target, LIMITS, Counters())
    return target


@pytest.mark.root
def test_changes_come_back_as_they_were(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "d").mkdir(parents=True)
    (upper / "d/file").write_bytes(b"contents" * 1000)
    os.chmod(upper / "d/file", 0o4751)
    os.chown(upper / "d/file", 1234, 77)
    os.chmod(upper / "d/file", 0o4751)
    os.utime(upper / "d/file", ns=(1, 1_700_000_000_123_456_789))
    os.setxattr(upper / "d/file", "user.raw", b"\xff\x00\n=\xfe")
    os.link(upper / "d/file", upper / "same")
    (upper / "link").symlink_to("/etc/shadow")
    os.mkfifo(upper / "fifo", 0o600)
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    (upper / "opaque").mkdir()
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    (upper / os.fsdecode(b"\xff name" + b"x" * 120)).write_text("odd")
    again = round_trip(upper, tmp_path)
    old, new = (os.lstat(where / "d/file") for where in (upper, again))
    assert (old.st_mode, old.st_uid, old.st_gid) == (new.st_mode, new.st_uid, new.st_gid)
    assert abs(old.st_mtime_ns - new.st_mtime_ns) < 1000
    assert (again / "d/file").read_bytes() == b"contents" * 1000
    assert os.getxattr(again / "d/file", "user.raw") == b"\xff\x00\n=\xfe"
    assert (again / "same").samefile(again / "d/file")
    assert os.readlink(again / "link") == "/etc/shadow"
    assert stat.S_ISFIFO(os.lstat(again / "fifo").st_mode)
    gone = os.lstat(again / "gone")
    assert (stat.S_ISCHR(gone.st_mode), gone.st_rdev) == (True, 0)
    assert os.getxattr(again / "opaque", "trusted.overlay.opaque") == b"y"
    assert sorted(os.listdir(again)) == sorted(os.listdir(upper))


def test_holes_cost_nothing(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    with open(upper / "hole", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 30)
        file.write(b"middle")
    with open(upper / "empty", "wb") as file:
        file.truncate(1 << 40)
    again = round_trip(upper, tmp_path)
    assert (tmp_path / "diff.tar").stat().st_size < 1 << 20
    assert (again / "hole").stat().st_size == (again / "empty").stat().st_size == 1 << 40
    with open(again / "hole", "rb") as file:
        file.seek(1 << 30)
        assert file.read(6) == b"middle"


def test_links_out_of_the_directory_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "a").symlink_to(tmp_path / "outside")
    diff.write(upper, tmp_path / "diff.tar", Counters())
    assert b"secret\0" not in (tmp_path / "diff.tar").read_bytes()


def test_a_tree_without_end_is_refused(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    fd = os.open(upper, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=fd)
        child = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(fd)
    with pytest.raises(CheckpointRefused, match="256"):
        diff.write(upper, tmp_path / "diff.tar", Counters())


def test_a_file_named_like_a_whiteout_is_left_out(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / ".wh.etc").write_text("trick")
    again = round_trip(upper, tmp_path)
    assert os.listdir(again) == []


def test_an_archive_of_changes_can_not_leave_the_directory(tmp_path: Path) -> None:
    escape = archive(tmp_path / "diff.tar", {"../escape": b"x"})
    (tmp_path / "upper").mkdir()
    with pytest.raises(LayerMalformed):
        unpack(iter([escape.read_bytes()]), tmp_path / "upper", LIMITS, Counters())
    assert not (tmp_path / "escape").exists()
