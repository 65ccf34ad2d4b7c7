"""How much a directory tree takes on its disk: blocks and inodes, counted by a walk.

The tree is a stranger's, and changes meanwhile: by descriptors, never through a symbolic link, not
onto another file system, one look at each name. What vanishes is not counted. Few descriptors are
held however deep the tree: a parent that was let go of is found again by "..", and only taken if it
is the one that it was, since a directory that moves takes its ".." along.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HELD: Final = 64  # descriptors
_CLOSED: Final = -1
_BLOCK: Final = 512  # bytes: the unit of st_blocks, whatever the file system's blocks are
MOST_INODES: Final = 5_000_000  # then the walk ends: a few minutes, some hundred MB of names

Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class Occupied:
    """The top directory included; a file of several names once. whole: nothing was left out."""

    bytes: int
    inodes: int
    whole: bool


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its descriptor, or _CLOSED; what is to be entered yet."""

    number: int
    identity: Identity
    children: list[str]


@dataclass(slots=True)
class _Walk:
    most: int
    progress: Callable[[int], None]
    device: int = 0
    blocks: int = 0
    inodes: int = 0
    whole: bool = True
    linked: set[int] = field(default_factory=set)  # inodes of several names

    def count(self, status: os.stat_result) -> None:
        if status.st_nlink > 1 and not _is_directory(status):
            if status.st_ino in self.linked:
                return
            self.linked.add(status.st_ino)
        self.inodes += 1
        self.blocks += status.st_blocks

    def enter(self, number: int) -> _Level:
        """Count what is in a directory. Takes over the descriptor."""
        children = []
        try:
            status = os.fstat(number)
            with os.scandir(number) as entries:
                for entry in entries:
                    if self._look(entry):
                        children.append(entry.name)
                    if self.inodes >= self.most:
                        self.whole = False
                        children.clear()
                        break
        except BaseException:
            os.close(number)
            raise
        self.progress(self.inodes)
        return _Level(number, (status.st_dev, status.st_ino), children)

    def _look(self, entry: os.DirEntry[str]) -> bool:
        """Whether it is a directory to enter."""
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return False
        if status.st_dev != self.device:
            return False
        self.count(status)
        return _is_directory(status)

    def step(self, path: list[_Level]) -> None:
        """Go one directory down, or one up."""
        level = path[-1]
        if not level.children or self.inodes >= self.most:
            path.pop()
            if path:
                self._return(path[-1], level)
            if level.number != _CLOSED:
                os.close(level.number)
            return
        try:
            number = os.open(level.children.pop(), _OPEN, dir_fd=level.number)
        except OSError:
            return
        if len(path) >= _HELD:
            far = path[-_HELD]
            if far.number != _CLOSED:
                os.close(far.number)
                far.number = _CLOSED
        path.append(self.enter(number))

    def _return(self, parent: _Level, child: _Level) -> None:
        """The parent's descriptor again, if it was let go of; without it its rest is left out."""
        if parent.number != _CLOSED:
            return
        if child.number != _CLOSED:
            with suppress(OSError):
                number = os.open("..", _OPEN, dir_fd=child.number)
                status = os.fstat(number)
                if (status.st_dev, status.st_ino) == parent.identity:
                    parent.number = number
                    return
                os.close(number)
        self.whole = self.whole and not parent.children
        parent.children.clear()


def occupied(
    top: Path, *, most: int = MOST_INODES, progress: Callable[[int], None] = lambda _: None
) -> Occupied:
    """What `top` and all beneath it take. Raises OSError if it can't be opened.

    progress: told now and then how many inodes there are so far.
    """
    walk = _Walk(most, progress)
    number = os.open(top, _OPEN)
    status = os.fstat(number)
    walk.device = status.st_dev
    walk.count(status)
    path = [walk.enter(number)]
    try:
        while path:
            walk.step(path)
    finally:
        for level in path:
            if level.number != _CLOSED:
                os.close(level.number)
    return Occupied(walk.blocks * _BLOCK, walk.inodes, walk.whole)


def _is_directory(status: os.stat_result) -> bool:
    return status.st_mode & 0o170000 == 0o040000
