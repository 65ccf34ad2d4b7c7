"""A container's log file, read: lines of CRI's format, the last ones, and those to come.

2026-01-02T03:04:05.123456789Z stdout F what it wrote
<RFC 3339 with nanoseconds> <stream> <P: to be continued, F: full> <content>
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """One record. `content` is without the newline; `partial`: the next record goes on."""

    time: str
    stream: str
    partial: bool
    content: bytes


def parse(record: bytes) -> Line:
    """The record in a line of the file. ValueError if it is none."""
    words = record.rstrip(b"\n").split(b" ", 3)
    if len(words) < 3 or words[1] not in (b"stdout", b"stderr"):
        raise ValueError(f"{record[:60]!r} is not a line of a container's log")
    content = words[3] if len(words) == 4 else b""
    return Line(words[0].decode(), words[1].decode(), words[2].startswith(b"P"), content)


def tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines of the file begin, in bytes; read from its end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        position, left = end, lines + 1
        while position > 0:
            size = min(BLOCK, position)
            position -= size
            file.seek(position)
            block = file.read(size)
            if end == position + size and not block.endswith(b"\n"):
                left -= 1  # an unfinished last line is one, too
            for index in range(len(block) - 1, -1, -1):
                if block[index] == 0x0A:
                    left -= 1
                    if left == 0:
                        return position + index + 1
    return 0


def read(path: Path, *, offset: int = 0, more: Callable[[], bool]) -> Iterator[Line]:
    """The file's records from `offset` on.

    At its end `more` is asked whether to wait for what comes: it returns when it is worth looking
    again, or False to end. A rotated file is read to its end before the new one is opened.
    """
    rest = b""
    file = path.open("rb")
    try:
        file.seek(offset)
        while True:
            block = file.read(BLOCK)
            if block:
                *full, rest = (rest + block).split(b"\n")
                yield from map(parse, full)
            elif (fresh := _reopened(path, file.fileno())) is not None:
                file.close()
                file = os.fdopen(fresh, "rb")
            elif not more():
                return
    finally:
        file.close()


def _reopened(path: Path, fd: int) -> int | None:
    """A descriptor of the file that now has this path, if it is another one."""
    try:
        found = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if os.path.samestat(os.fstat(found), os.fstat(fd)):
        os.close(found)
        return None
    return found
