"""Frames: ten bytes of header, then a message.

length u32 │ stream u32 │ kind u8 │ flags u8 │ length bytes        (big endian)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from runtime.ttrpc.errors import Violation

MAX_DATA = 4 * 1024 * 1024  # bytes of a message; the protocol's
_HEADER = struct.Struct(">IIBB")


class Kind(IntEnum):
    """What a frame is."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """stream: odd, chosen by the client, never used again; flags: 0 for unary calls."""

    stream: int
    kind: int
    data: bytes
    flags: int = 0

    def __bytes__(self) -> bytes:
        """Raises ValueError: the message is too long for a frame."""
        size = len(self.data)
        if size > MAX_DATA:
            raise ValueError(f"a message of {size} bytes: ttrpc takes {MAX_DATA} at most")
        return _HEADER.pack(size, self.stream, self.kind, self.flags) + self.data


class Frames:
    """Collects bytes until frames are whole. Holds no more than one frame and what was fed."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Raises Violation where a frame announces more than MAX_DATA."""
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            size, stream, kind, flags = _HEADER.unpack_from(self._pending)
            if size > MAX_DATA:
                raise Violation(f"a frame of {size} bytes: {MAX_DATA} at most")
            end = _HEADER.size + size
            if len(self._pending) < end:
                return
            message = bytes(memoryview(self._pending)[_HEADER.size : end])
            del self._pending[:end]
            yield Frame(stream, kind, message, flags)
