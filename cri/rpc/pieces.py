"""A long list in several messages, each far below what a client takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_ITEMS = 3000
MOST_BYTES = 4 << 20  # of a message, unless a single item is larger; kubelet takes 16 MiB


def cut(items: Iterable[bytes]) -> Iterator[bytes]:
    """Serialised messages that hold each item once, in order; none is empty, so of nothing none.

    items: each one a message with that one item, as protobuf lets such be joined.
    """
    piece: list[bytes] = []
    size = 0
    for item in items:
        if piece and (len(piece) >= MOST_ITEMS or size + len(item) > MOST_BYTES):
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(item)
        size += len(item)
    if piece:
        yield b"".join(piece)
