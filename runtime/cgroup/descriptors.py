"""Files of cgroups kept open, so that reading one is a single system call.

For one thread, which alone opens, reads and closes: a number that another thread had closed might
be somebody else's file by the time it is read. An open file doesn't keep a cgroup from being
removed; reading it says ENODEV from then on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_BYTES: Final = 8192  # memory.stat has 2 KB; io.stat a line for each disk
_MOST_BYTES: Final = 1 << 20
_ABSENT: Final = -1
_CLOSED: Final = -2
_GONE: Final = (errno.ENODEV, errno.ENOENT)


class CgroupGone(Exception):
    """There is no such cgroup, or no longer."""


@dataclass(slots=True)
class _Files:
    """paths: the first is there as long as the cgroup is; a number for each: see above."""

    paths: Sequence[str]
    numbers: list[int] = field(default_factory=list)


class Descriptors:
    """At most `most` of them; files beyond that are opened for each reading.

    Keys are the caller's; every key has its files for as long as it isn't forgotten.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._files: dict[object, _Files] = {}

    def __len__(self) -> int:
        return len(self._files)

    def read(self, key: object, paths: Sequence[str]) -> list[bytes | None]:
        """What is in the files; None for one that the kernel doesn't have. Raises CgroupGone.

        A cgroup that was removed and made anew since the last reading is found again.
        """
        known = self._files.get(key)
        if known is not None:
            try:
                return self._read(known)
            except CgroupGone:
                self.forget(key)
        files = _Files(paths, [_CLOSED] * len(paths))
        self._files[key] = files
        try:
            return self._read(files)
        except CgroupGone:
            self.forget(key)
            raise

    def _read(self, files: _Files) -> list[bytes | None]:
        contents: list[bytes | None] = []
        for index, number in enumerate(files.numbers):
            if number >= 0:
                contents.append(_pread(number, index))
            elif number == _ABSENT:
                contents.append(None)
            else:
                contents.append(self._open(files, index))
        return contents

    def _open(self, files: _Files, index: int) -> bytes | None:
        """Open a file, read it, and keep it open if there is room."""
        try:
            number = os.open(files.paths[index], os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if index == 0:
                raise CgroupGone(files.paths[0]) from error
            if error.errno == errno.ENOENT:
                files.numbers[index] = _ABSENT
            return None
        kept = False
        try:
            content = _pread(number, index)
            if content is None:  # pressure that was switched off (psi=0): it stays so
                files.numbers[index] = _ABSENT
            elif self._left:
                files.numbers[index] = number
                self._left -= 1
                kept = True
            return content
        finally:
            if not kept:
                os.close(number)

    def forget(self, key: object) -> None:
        """Close what a key has; unknown: nothing to do."""
        files = self._files.pop(key, None)
        for number in files.numbers if files else ():
            if number >= 0:
                os.close(number)
                self._left += 1

    def close(self) -> None:
        """Close everything."""
        for key in tuple(self._files):
            self.forget(key)


def _pread(number: int, index: int) -> bytes | None:
    """The file's content; None if it has nothing to say. Raises CgroupGone."""
    try:
        content = os.pread(number, _BYTES, 0)
        if len(content) == _BYTES:
            while (more := os.pread(number, _BYTES, len(content))) and len(content) < _MOST_BYTES:
                content += more
        return content
    except OSError as error:
        if index == 0 or error.errno in _GONE:
            raise CgroupGone(f"file {index}") from error
        return None
