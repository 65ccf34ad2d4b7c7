"""CRIU's images, byte by byte: magic numbers, then protobuf messages, each after its length.

Only as much as it takes to look at a few fields, and to change them: fields that nobody asks for
are carried along as they are. Raises MalformedImage for what is no such image, and never reads
beyond it. What CRIU's own reader might take for something else than we do is malformed as well:
fields that occur twice, numbers of more bits than their field has.
See criu/include/magic.h, and protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

COMMON: Final = 0x54564319
MAGIC: Final = {  # of the kinds of image that we read
    "core": 0x55053847,
    "ids": 0x54432030,
    "ipcns-shm": 0x46283044,
    "ipcns-var": 0x53115007,
    "fdinfo": 0x56213732,
    "files": 0x56303138,
    "ghost-file": 0x52583605,
    "inotify-wd": 0x54562009,
    "inventory": 0x58313116,
    "mountpoints": 0x55563928,
    "pstree": 0x50273030,
    "remap-fpath": 0x59133954,
    "seccomp": 0x64413049,
    "tty-info": 0x59453036,
}
_SIZE: Final = struct.Struct("<I")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST: Final = 10  # bytes of a varint
_MASK: Final = (1 << 64) - 1
Value = int | bytes


class MalformedImage(Exception):
    """A checkpoint's image is not what it should be."""


@dataclass(slots=True)
class Message:
    """Fields in their order: number, value. An int is a varint; fixed ones are kept as bytes."""

    fields: list[tuple[int, int, Value]]

    @classmethod
    def parse(cls, data: bytes) -> Message:
        return cls(list(_fields(data)))

    @classmethod
    def of(cls, *fields: tuple[int, Value | str]) -> Message:
        """A new one. A str goes as UTF-8."""
        message = cls([])
        for number, value in fields:
            message.add(number, value.encode() if isinstance(value, str) else value)
        return message

    def number(self, field: int, default: int | None = None, *, bits: int = 32) -> int:
        """A number; MalformedImage if it is missing and has no default."""
        found = [value for number, _, value in self.fields if number == field]
        if not found and default is not None:
            return default
        if len(found) != 1 or not isinstance(found[0], int):
            raise MalformedImage(f"field {field} is missing, or there twice, or no number")
        return _fitting(found[0], bits)

    def numbers(self, field: int) -> list[int]:
        """All values of a repeated number of 32 bits, packed or not."""
        found: list[int] = []
        for number, kind, value in self.fields:
            if number != field:
                continue
            if isinstance(value, int):
                found.append(value)
            elif kind == _BYTES:
                found += _packed(value)
        return [_fitting(value, 32) for value in found]

    def has(self, field: int) -> bool:
        return any(number == field for number, _, _ in self.fields)

    def data(self, field: int) -> bytes:
        """A text, some bytes or a message; b"" without."""
        found = [value for number, _, value in self.fields if number == field]
        if not found:
            return b""
        if len(found) != 1 or not isinstance(found[0], bytes):
            raise MalformedImage(f"field {field} is there twice, or a number")
        return found[0]

    def message(self, field: int) -> Message:
        """A field that is a message; an empty one without."""
        return Message.parse(self.data(field))

    def messages(self, field: int) -> list[Message]:
        """The messages of a repeated field."""
        found = (value for number, _, value in self.fields if number == field)
        return [Message.parse(value) for value in found if isinstance(value, bytes)]

    def add(self, field: int, value: Value) -> None:
        self.fields.append((field, _VARINT if isinstance(value, int) else _BYTES, value))

    def drop(self, *fields: int) -> None:
        self.fields = [item for item in self.fields if item[0] not in fields]

    def set(self, field: int, value: Value | Message) -> None:
        """In the place of all values that were there."""
        self.drop(field)
        self.add(field, value.encode() if isinstance(value, Message) else value)

    def encode(self) -> bytes:
        parts = []
        for number, kind, value in self.fields:
            parts.append(_varint(number << 3 | kind))
            if isinstance(value, int):
                parts.append(_varint(value))
            else:
                parts += (_varint(len(value)), value) if kind == _BYTES else (value,)
        return b"".join(parts)


def read(kind: str, data: bytes) -> list[Message]:
    """The messages of an image."""
    return [Message.parse(piece) for piece in _pieces(kind, data)]


def first(kind: str, data: bytes) -> Message:
    """The first message of an image; what follows may be something else than messages."""
    piece = next(_pieces(kind, data), None)
    if piece is None:
        raise MalformedImage("it is empty")
    return Message.parse(piece)


def write(kind: str, messages: Iterable[Message]) -> bytes:
    """An image."""
    parts = [_head(kind)]
    for message in messages:
        data = message.encode()
        parts += (_SIZE.pack(len(data)), data)
    return b"".join(parts)


def _head(kind: str) -> bytes:
    own = _SIZE.pack(MAGIC[kind])
    return own if kind == "inventory" else _SIZE.pack(COMMON) + own


def _pieces(kind: str, data: bytes) -> Iterator[bytes]:
    head = _head(kind)
    if data[: len(head)] != head:
        raise MalformedImage(f"it does not begin as a {kind} image does")
    at = len(head)
    while at < len(data):
        if at + _SIZE.size > len(data):
            raise MalformedImage("it is cut short")
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size
        if size > len(data) - at:
            raise MalformedImage("it is cut short")
        yield data[at : at + size]
        at += size


def _fields(data: bytes) -> Iterator[tuple[int, int, Value]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise MalformedImage("a field without a number")
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield number, kind, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise MalformedImage(f"a field of type {kind}")
        if size > len(data) - at:
            raise MalformedImage("a field is longer than its message")
        yield number, kind, data[at : at + size]
        at += size


def _fitting(value: int, bits: int) -> int:
    if value >> bits:
        raise MalformedImage(f"{value} has more than {bits} bits")
    return value


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _read_varint(data, at)
        yield value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(at, min(at + _LONGEST, len(data))):
        value |= (data[index] & 0x7F) << 7 * (index - at)
        if data[index] < 0x80:
            return value & _MASK, index + 1
    raise MalformedImage("a number without an end")


def _varint(value: int) -> bytes:
    value &= _MASK
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
