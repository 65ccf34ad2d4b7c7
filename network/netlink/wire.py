"""Netlink messages and attributes as bytes and back. Pure: no socket, no kernel.

A message is a header, a fixed body that its type defines, and attributes (type, length, value),
some of which hold attributes again. Everything is in the machine's byte order unless an attribute
says otherwise. See netlink(7) and include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

NESTED = 0x8000  # NLA_F_NESTED
_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK: without NESTED and NET_BYTEORDER
HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_MAX_ATTRIBUTE = 0xFFFF - _ATTRIBUTE.size


class MessageFlag(enum.IntFlag):
    """NLM_F_* of linux/netlink.h; some numbers mean different things in requests and answers."""

    NONE = 0
    REQUEST = 0x1
    ACK = 0x4
    DUMP_INTERRUPTED = 0x10
    CAPPED = 0x100  # in an acknowledgement: the request is not repeated in it
    ACK_TLVS = 0x200  # in an acknowledgement: attributes that explain it follow
    REPLACE = 0x100
    EXCLUSIVE = 0x200
    DUMP = 0x300
    CREATE = 0x400
    APPEND = 0x800


class Control(enum.IntEnum):
    """Message types that every netlink family has (NLMSG_*)."""

    ERROR = 2
    DONE = 3


@dataclass(frozen=True, slots=True)
class Request:
    """One message to the kernel. `what` names it in errors: "address 10.87.0.2/16"."""

    kind: int
    body: bytes
    flags: int = MessageFlag.NONE
    what: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """One message from the kernel."""

    kind: int
    flags: int
    sequence: int
    body: bytes


def attribute(kind: int, value: bytes = b"") -> bytes:
    """One attribute, padded to four bytes. Raises ValueError above 64 KiB."""
    if len(value) > _MAX_ATTRIBUTE:
        raise ValueError(f"attribute {kind}: {len(value)} bytes; the limit is {_MAX_ATTRIBUTE}")
    head = _ATTRIBUTE.pack(len(value) + _ATTRIBUTE.size, kind)
    return head + value + bytes(-len(value) % 4)


def nested(kind: int, *values: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(values))


def text(kind: int, value: str) -> bytes:
    """A zero-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """A number in network byte order, as nfnetlink wants its numbers."""
    return attribute(kind, struct.pack(">I", value))


def encode(requests: Sequence[Request], first_sequence: int) -> bytes:
    """The bytes of a batch; the messages are numbered from `first_sequence`."""
    parts = []
    for sequence, request in enumerate(requests, first_sequence):
        length = HEADER.size + len(request.body)
        flags = request.flags | MessageFlag.REQUEST
        parts.append(HEADER.pack(length, request.kind, flags, sequence, 0))
        parts.append(request.body + bytes(-length % 4))
    return b"".join(parts)


def decode(data: bytes) -> Iterator[Reply]:
    """The messages of one datagram. Raises ValueError where a length can't be."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _port = HEADER.unpack_from(data, offset)
        if not HEADER.size <= length <= len(data) - offset:
            raise ValueError(f"message of {length} bytes at {offset} of {len(data)}")
        yield Reply(kind, flags, sequence, data[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3


def attributes(data: bytes) -> Mapping[int, bytes]:
    """Attributes by type; of one that comes twice, the last. Raises ValueError on bad lengths."""
    return dict(attribute_list(data))


def attribute_list(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Attributes in order: for lists, whose members all have the same type."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= len(data) - offset:
            raise ValueError(f"attribute of {length} bytes at {offset} of {len(data)}")
        yield kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def string(value: bytes) -> str:
    """The text of a zero-terminated attribute."""
    return value.split(b"\0", 1)[0].decode(errors="replace")
