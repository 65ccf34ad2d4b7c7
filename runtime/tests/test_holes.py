"""What a fork makes lies side by side, whatever was freed before."""

from __future__ import annotations

import mmap
import sys

from runtime.spawner import holes

_SIZE = 64


def _objects(count: int) -> list[bytes]:
    content = _SIZE - sys.getsizeof(b"")
    return [bytes(content) for _ in range(count)]


def _pages(objects: list[bytes]) -> int:
    return len({id(one) // mmap.PAGESIZE for one in objects})


def test_new_objects_lie_side_by_side_once_holes_are_filled() -> None:
    old = _objects(4096)
    del old[:: mmap.PAGESIZE // _SIZE]
    assert _pages(_objects(8)) > 4
    holes.fill()
    assert _pages(_objects(8)) <= 2
