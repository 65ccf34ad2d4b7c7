"""What a tree takes on its disk, also where a stranger has made it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from image import walk
from image.directory import remove_tree

DEPTH = 3000
"""Deeper than a path may be long, and than a process may have descriptors."""


def added_up(top: Path) -> int:
    """The blocks of all names, by another way."""
    total = os.lstat(top).st_blocks
    for directory, folders, files in os.walk(top):
        total += sum(os.lstat(f"{directory}/{name}").st_blocks for name in (*folders, *files))
    return total * 512


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A directory that goes down and down, with a file at the bottom."""
    top = tmp_path / "deep"
    top.mkdir()
    before = os.getcwd()
    try:
        os.chdir(top)
        for _ in range(DEPTH):
            os.mkdir("d")
            Path("beside").write_bytes(b"x")
            os.chdir("d")
        Path("bottom").write_bytes(bytes(100_000))
    finally:
        os.chdir(before)
    yield top
    remove_tree(top)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_blocks_and_inodes_are_what_the_file_system_says(tmp_path: Path) -> None:
    for name in ("a", "a/b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/b/file").write_bytes(bytes(300_000))
    (tmp_path / "c/small").write_bytes(b"1")
    os.mkfifo(tmp_path / "c/fifo")
    with (tmp_path / "c/sparse").open("wb") as sparse:
        sparse.truncate(1 << 40)
    found = walk.occupied(tmp_path)
    assert found == walk.Occupied(added_up(tmp_path), 8, whole=True)
    assert 300_000 <= found.bytes < 1 << 20


def test_a_file_of_several_names_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(1 << 20))
    before = walk.occupied(tmp_path)
    (tmp_path / "d").mkdir()
    os.link(tmp_path / "one", tmp_path / "d/two")
    os.link(tmp_path / "one", tmp_path / "three")
    after = walk.occupied(tmp_path)
    assert after.inodes == before.inodes + 1
    assert after.bytes - before.bytes < 1 << 16


def test_symbolic_links_lead_nowhere(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    (outside / "large").write_bytes(bytes(1 << 20))
    inside.mkdir()
    os.symlink(outside, inside / "folder")
    os.symlink(outside / "large", inside / "file")
    os.symlink(inside, inside / "round")
    assert walk.occupied(inside) == walk.Occupied(added_up(inside), 4, whole=True)
    with pytest.raises(OSError, match="folder"):
        walk.occupied(inside / "folder")


def test_depth_costs_no_descriptors_and_hides_nothing(deep: Path) -> None:
    before = descriptors()
    most = 0

    def progress(inodes: int) -> None:
        nonlocal most
        most = max(most, descriptors() - before)

    found = walk.occupied(deep, progress=progress)
    assert found.whole
    assert found.inodes == 1 + 2 * DEPTH + 1
    assert found.bytes >= 100_000
    assert most <= 70
    assert descriptors() == before


def test_a_tree_without_end_is_given_up_and_says_so(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}/f").write_bytes(b"")
    before = descriptors()
    found = walk.occupied(tmp_path, most=60)
    assert not found.whole
    assert found.inodes == 60
    assert descriptors() == before


def test_a_directory_that_moves_away_under_the_walk_is_left_out_not_followed(deep: Path) -> None:
    """Its ".." leads elsewhere by then, to what is not ours to count."""
    elsewhere = deep.parent / "elsewhere"
    (elsewhere / "inner").mkdir(parents=True)
    (elsewhere / "large").write_bytes(bytes(1 << 22))
    (deep / "d/d/later").mkdir()
    own = walk.occupied(deep)
    moved = False

    def progress(inodes: int) -> None:
        nonlocal moved
        if not moved and inodes > 2 * 200:  # the first levels' descriptors are let go of by now
            os.rename(deep / "d/d/d", elsewhere / "inner/d")
            moved = True

    before = descriptors()
    found = walk.occupied(deep, progress=progress)
    os.rename(elsewhere / "inner/d", deep / "d/d/d")
    assert moved
    assert found.bytes <= own.bytes
    assert found.inodes <= own.inodes
    assert descriptors() == before


def test_what_vanishes_meanwhile_is_no_error(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name / "inner").mkdir(parents=True)

    def progress(inodes: int) -> None:
        for name in ("a", "b", "c"):
            remove_tree(tmp_path / name)

    found = walk.occupied(tmp_path, progress=progress)
    assert found.inodes == 4
    assert found.whole


def test_another_file_system_is_not_entered() -> None:
    """/dev has several."""
    devices = {os.lstat(f"/dev/{name}").st_dev for name in os.listdir("/dev")}
    if len(devices) < 2:
        pytest.skip("nothing is mounted below /dev")
    before = os.stat("/dev").st_dev
    own = sum(os.lstat(f"/dev/{name}").st_dev == before for name in os.listdir("/dev"))
    assert walk.occupied(Path("/dev")).inodes >= own
