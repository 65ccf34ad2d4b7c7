"""Trees that a hostile container has left are removed as a whole, and nothing beside them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from image import directory

DEPTH = 600


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Fewer than the tree is deep."""
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(400, old[0]), old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, old)


@pytest.mark.usefixtures("few_descriptors")
def test_a_tree_deeper_than_there_are_descriptors_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for level in range(DEPTH):
        os.symlink(outside, "link", dir_fd=fd)
        if level % 10 == 0:
            os.mkdir("side", dir_fd=fd)
        os.mkdir("down", dir_fd=fd)
        deeper = os.open("down", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    directory.remove_tree(top)
    assert not top.exists()
    assert outside.exists()
    assert len(os.listdir("/proc/self/fd")) == before
