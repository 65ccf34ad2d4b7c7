"""Sparse files in tar: GNU's old format in the header, and its three ways to say it in pax.

https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from image.errors import LayerMalformed
from image.unpack.stream import Stream

Pieces = tuple[tuple[int, int], ...]

SIZE_KEYS: Final = frozenset({b"GNU.sparse.size", b"GNU.sparse.realsize"})
REPEATED_KEYS: Final = frozenset({b"GNU.sparse.offset", b"GNU.sparse.numbytes"})
_BLOCK: Final = 512
_PIECES_LIMIT: Final = 100_000


def decimal(text: bytes) -> int:
    """A pax number. Raises LayerMalformed."""
    if not text.isdigit() or len(text) > 19:
        raise LayerMalformed(f"{text[:40]!r} in a pax header is no number")
    return int(text)


def from_header(
    header: bytes, stream: Stream, number: Callable[[bytes, str], int]
) -> tuple[int, Pieces]:
    """The old format: four pieces in the header, 21 in each block that may follow it."""
    size = number(header[483:495], "size")
    pairs = _pairs(header[386:482], number)
    more = header[482]
    while more:
        block = stream.take(_BLOCK)
        pairs += _pairs(block[:504], number)
        more = block[504]
        _limit(len(pairs))
    return size, tuple(pairs)


def _pairs(data: bytes, number: Callable[[bytes, str], int]) -> list[tuple[int, int]]:
    pairs = []
    for at in range(0, len(data), 24):
        if data[at]:
            offset, length = data[at : at + 12], data[at + 12 : at + 24]
            pairs.append((number(offset, "sparse offset"), number(length, "sparse length")))
    return pairs


def from_text(text: bytes) -> Pieces:
    """Formats 0.0 and 0.1: "offset,length,offset,length"."""
    numbers = [decimal(word) for word in text.strip(b",").split(b",")] if text else []
    return _paired(numbers)


def from_contents(stream: Stream, stored: int) -> tuple[Pieces, int]:
    """Format 1.0: decimal lines at the head of the contents, count first, padded to a block.

    Answers the pieces, and how many of the stored bytes the map took.
    """
    text = b""
    used = 0
    lines: list[bytes] = []
    wanted = 1
    while len(lines) < wanted:
        if used + _BLOCK > stored:
            raise LayerMalformed("the map of a sparse file is cut short")
        text += stream.take(_BLOCK)
        used += _BLOCK
        *whole, text = text.split(b"\n")
        lines += whole
        if lines and wanted == 1:
            count = decimal(lines[0])
            _limit(count)
            wanted = 1 + 2 * count
    return _paired([decimal(line) for line in lines[1:wanted]]), used


def _paired(numbers: list[int]) -> Pieces:
    if len(numbers) % 2:
        raise LayerMalformed("the map of a sparse file has an odd number of numbers")
    _limit(len(numbers) // 2)
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _limit(count: int) -> None:
    if count > _PIECES_LIMIT:
        raise LayerMalformed(f"a sparse file of {count} pieces; {_PIECES_LIMIT} are allowed")


def check(pieces: Pieces, size: int, stored: int) -> None:
    """The pieces ascend, lie inside the file and are what is stored. Raises LayerMalformed."""
    last = 0
    for offset, length in pieces:
        if offset < last:
            raise LayerMalformed("the pieces of a sparse file overlap")
        last = offset + length
    if last > size or sum(length for _, length in pieces) != stored:
        raise LayerMalformed("the map of a sparse file contradicts its size")
