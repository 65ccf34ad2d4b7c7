"""Paths stay below their root. No root needed."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import resolve


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("outside")
    return root


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    fd = os.open(tree, os.O_PATH)
    yield fd
    os.close(fd)


def where(fd: int) -> str:
    path = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return path


@pytest.mark.parametrize("path", [b"a/b", b"/a/b", b"../../a/b", b"/../a/./b", b"a/b/../../a/b"])
def test_every_spelling_stays_inside(tree: Path, root: int, path: bytes) -> None:
    assert where(resolve.open_in_root(root, path)) == str(tree / "a/b")


def test_absolute_and_climbing_links_stay_inside(tree: Path, root: int) -> None:
    (tree / "absolute").symlink_to("/a/file")
    (tree / "a/climbing").symlink_to("../../../../a/file")
    (tree / "out").symlink_to(tree.parent / "outside/file")
    for name in (b"absolute", b"a/climbing"):
        assert where(resolve.open_in_root(root, name)) == str(tree / "a/file")
    with pytest.raises(FileNotFoundError):
        resolve.open_in_root(root, b"out")


def test_magic_links_are_refused() -> None:
    slash = os.open("/", os.O_PATH)
    with pytest.raises(OSError, match="symbolic links") as caught:
        resolve.open_in_root(slash, b"/proc/self/root")
    assert caught.value.errno == errno.ELOOP
    os.close(slash)


def test_missing_directories_are_made(tree: Path, root: int) -> None:
    assert where(resolve.mkdir_all_in_root(root, b"/a/x/y//z/", 0o700)) == str(tree / "a/x/y/z")
    assert stat.S_IMODE((tree / "a/x/y").stat().st_mode) == 0o700


def test_directories_behind_dangling_links_are_made(tree: Path, root: int) -> None:
    (tree / "var").mkdir()
    (tree / "var/run").symlink_to("/run")
    (tree / "run").symlink_to("a/run")
    made = resolve.mkdir_all_in_root(root, b"/var/run/secrets/token")
    assert where(made) == str(tree / "a/run/secrets/token")


def test_files_behind_dangling_links_are_made(tree: Path, root: int) -> None:
    (tree / "link").symlink_to("../../a/new/file")
    assert where(resolve.create_in_root(root, b"link")) == str(tree / "a/new/file")
    fd = resolve.create_in_root(root, b"/q/r/file")
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH  # a writable one would keep the mount busy
    assert where(fd) == str(tree / "q/r/file")


def test_an_existing_file_is_left_alone(tree: Path, root: int) -> None:
    os.close(resolve.create_in_root(root, b"a/file"))
    assert (tree / "a/file").read_text() == "inside"


@pytest.mark.parametrize("make", [resolve.mkdir_all_in_root, resolve.create_in_root])
def test_links_in_a_circle_end(tree: Path, root: int, make: object) -> None:
    (tree / "one").symlink_to("two")
    (tree / "two").symlink_to("one")
    with pytest.raises(OSError, match=r".") as caught:
        make(root, b"one/x")  # type: ignore[operator]  # either function
    assert caught.value.errno == errno.ELOOP


def test_a_file_in_the_way_is_an_error(root: int) -> None:
    with pytest.raises(NotADirectoryError):
        resolve.mkdir_all_in_root(root, b"a/file/x")


def test_a_name_needs_a_name(root: int) -> None:
    for path in (b"/", b"a/..", b"."):
        with pytest.raises(OSError, match="names no entry"):
            resolve.parent_in_root(root, path)


def test_reading_is_limited_to_regular_files_and_size(tree: Path, root: int) -> None:
    assert resolve.read_in_root(root, b"a/file", 6) == b"inside"
    with pytest.raises(OSError, match="larger than 5 bytes"):
        resolve.read_in_root(root, b"a/file", 5)
    os.mkfifo(tree / "fifo")
    for path in (b"fifo", b"a"):
        with pytest.raises(OSError, match="not a regular file"):
            resolve.read_in_root(root, path, 100)


_RACES = (errno.ENOENT, errno.ELOOP, errno.EAGAIN, errno.ENOTDIR)
RACER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
directory = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
while os.getppid() == int(sys.argv[2]):
    libc.renameat2(directory, b"real", directory, b"link", 2)  # RENAME_EXCHANGE
"""


def test_no_race_makes_a_directory_outside(tree: Path, root: int) -> None:
    outside = tree.parent / "outside"
    (tree / "real").mkdir()
    (tree / "link").symlink_to(f"../../..{outside}")
    racer = subprocess.Popen(
        [sys.executable, "-I", "-c", RACER, str(tree), str(os.getpid())], stdout=subprocess.PIPE
    )
    assert racer.stdout is not None
    try:
        racer.stdout.readline()
        for number in range(600):
            try:
                os.close(resolve.mkdir_all_in_root(root, b"real/%d/x" % number))
                os.close(resolve.create_in_root(root, b"link/%d/f" % number))
            except OSError as error:
                if error.errno not in _RACES:
                    raise
    finally:
        racer.kill()
        racer.communicate()
    assert [path.name for path in outside.iterdir()] == ["file"]
