"""A long list in several messages, each far below what a client takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_ITEMS = 3000
MOST_BYTES = 4 << 20  # of a message, unless a single item is larger; kubelet takes 16 MiB


def batches(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Serialised messages that hold each item once, in order; none is empty, so of nothing none.

    frames: each a message with that one item, for protobuf lets such be joined.
    """
    batch: list[bytes] = []
    size = 0
    for frame in frames:
        if batch and (len(batch) >= MOST_ITEMS or size + len(frame) > MOST_BYTES):
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(frame)
        size += len(frame)
    if batch:
        yield b"".join(batch)
