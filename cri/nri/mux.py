"""Several conversations on one connection, sans-IO: each piece says which one it belongs to.

conversation u32 │ length u32 │ length bytes        (big endian)

Source: containerd/nri, pkg/net/multiplex.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

PLUGIN_SERVICE, RUNTIME_SERVICE = 1, 2
"""Conversations: in the first the runtime asks, in the second the plugin."""
MAX_PIECE = 10 + (4 << 20)
"""Bytes: ttrpc's header and its longest message."""
_HEADER = struct.Struct(">II")


class MuxViolation(ValueError):
    """Bytes that nobody who keeps to the protocol sends."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a conversation."""

    conversation: int
    data: bytes


def framed(conversation: int, data: bytes) -> Iterator[bytes]:
    """What to send for bytes of a conversation."""
    for start in range(0, len(data), MAX_PIECE):
        part = data[start : start + MAX_PIECE]
        yield _HEADER.pack(conversation, len(part)) + part


class Demux:
    """Bytes in, pieces out. Holds less than one piece and what was fed."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Raises MuxViolation: there is no way to go on."""
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            conversation, size = _HEADER.unpack_from(self._pending)
            if size > MAX_PIECE:
                raise MuxViolation(f"a piece of {size} bytes: {MAX_PIECE} at most")
            if conversation not in (PLUGIN_SERVICE, RUNTIME_SERVICE):
                raise MuxViolation(f"conversation {conversation}: there are 1 and 2")
            end = _HEADER.size + size
            if len(self._pending) < end:
                return
            payload = bytes(memoryview(self._pending)[_HEADER.size : end])
            del self._pending[:end]
            yield Piece(conversation, payload)
