"""A copy of shared memory: no more than there was, nothing half, no name taken from others."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.checkpoint import shm
from runtime.linux import mount

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Makes file systems of so many bytes."""
    made: list[Path] = []

    def make(name: str, size: int) -> Path:
        path = tmp_path / name
        path.mkdir()
        fd = mount.new_mount(b"tmpfs", ((b"size", str(size).encode()),), 0)
        mount.move_mount(fd, mount.AT_FDCWD, os.fsencode(path))
        os.close(fd)
        made.append(path)
        return path

    yield make
    for path in made:
        mount.umount(os.fsencode(path))


Make = Callable[[str, int], Path]


def copy(source: Path, target: Path) -> None:
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
    try:
        shm.copy(fds[0], fds[1], shm.outside(None))
    finally:
        for fd in fds:
            os.close(fd)


def test_names_of_one_file_do_not_fill_the_nodes_disk(memory: Make, tmp_path: Path) -> None:
    pods = memory("pod", MIB)
    (pods / "0").write_bytes(bytes(MIB // 2))
    for index in range(1, 100):
        os.link(pods / "0", pods / str(index))
    target = tmp_path / "copy"
    target.mkdir()
    with pytest.raises(OSError, match="more than there is room for where it is"):
        copy(pods, target)
    assert sum(path.stat().st_size for path in target.iterdir()) <= MIB


def test_what_does_not_fit_is_not_there_in_part(memory: Make, tmp_path: Path) -> None:
    """Or else the next start, which leaves alone what it finds, would go on with half of it."""
    source = tmp_path / "copy"
    source.mkdir()
    (source / "a").write_bytes(b"a")
    (source / "big").write_bytes(os.urandom(2 * MIB))
    pods = memory("pod", MIB)
    with pytest.raises(OSError, match="No space left") as caught:
        copy(source, pods)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in pods.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_names_that_are_taken_are_left_alone(memory: Make, tmp_path: Path, kind: str) -> None:
    source, outside = tmp_path / "copy", tmp_path / "outside"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_bytes(b"x")
    outside.mkdir()
    pods = memory("pod", MIB)
    if kind == "file":
        (pods / "sub").write_bytes(b"theirs")
    elif kind == "link":
        (pods / "sub").symlink_to(outside)
    else:
        (pods / "sub").mkdir(mode=0o711)
        (pods / "sub" / "file").symlink_to(outside / "made")
    copy(source, pods)
    assert list(outside.iterdir()) == []
    if kind == "file":
        assert (pods / "sub").read_bytes() == b"theirs"
    else:
        assert (pods / "sub" if kind == "link" else pods / "sub" / "file").is_symlink()
