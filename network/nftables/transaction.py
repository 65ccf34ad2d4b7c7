"""nfnetlink messages for tables, chains, sets, rules and elements; and the batch around them. Pure.

Everything of one batch happens at once or not at all.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from network.netlink.wire import MessageFlag, Request, attribute, be32, nested, text
from network.nftables.expression import value

_HEADER = struct.Struct(">BBH")  # nfgenmsg: family, version, resource
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 16, 17
_IN_LIST = 1  # NFTA_LIST_ELEM
_ELEMENTS_PER_MESSAGE = 200  # a list of elements is an attribute, and those end at 64 KiB
_COMMENT_BYTES = 120  # nft shows up to 128
_MAP = 0x8  # NFT_SET_MAP
_CREATE = MessageFlag.CREATE


class Family(enum.IntEnum):
    """NFPROTO_*: whose packets a table sees."""

    IPV4 = 2
    IPV6 = 10


class Nft(enum.IntEnum):
    """NFT_MSG_* of linux/netfilter/nf_tables.h."""

    NEWTABLE = 0
    GETTABLE = 1
    DELTABLE = 2
    NEWCHAIN = 3
    NEWRULE = 6
    NEWSET = 9
    NEWSETELEM = 12
    DELSETELEM = 14


class Hook(enum.IntEnum):
    """NF_INET_*: where a packet meets a chain."""

    PREROUTING = 0
    OUTPUT = 3
    POSTROUTING = 4


class Type(enum.IntEnum):
    """Data types by nft's numbers, which it needs to print a set's keys."""

    IPV4_ADDRESS = 7
    IPV6_ADDRESS = 8
    PROTOCOL = 12
    PORT = 13


_TYPE_BYTES = {
    Type.IPV4_ADDRESS: 4,
    Type.IPV6_ADDRESS: 16,
    Type.PROTOCOL: 1,
    Type.PORT: 2,
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name; families are worlds of their own, a name can exist in each."""

    family: Family
    name: str


@dataclass(frozen=True, slots=True)
class Element:
    """A member of a set, or of a map if it has data. The comment is for people who list it."""

    set_name: str
    key: bytes
    data: bytes = b""
    comment: str = ""


def batch(requests: Iterable[Request]) -> list[Request]:
    """The messages as one transaction."""
    header = _HEADER.pack(0, 0, _SUBSYSTEM)
    return [
        Request(_BATCH_BEGIN, header, what="nftables transaction"),
        *requests,
        Request(_BATCH_END, header, what="end of the nftables transaction"),
    ]


def concat(*parts: bytes) -> bytes:
    """A key of several parts: each begins on a word of its own."""
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


def get_table(table: Table) -> Request:
    return _request(Nft.GETTABLE, table, MessageFlag.NONE, text(1, table.name))


def add_table(table: Table, comment: str) -> Request:
    return _request(
        Nft.NEWTABLE, table, _CREATE, text(1, table.name) + attribute(6, _comment(comment))
    )


def delete_table(table: Table) -> Request:
    return _request(Nft.DELTABLE, table, MessageFlag.NONE, text(1, table.name))


def add_chain(table: Table, name: str) -> Request:
    """A chain to which others go."""
    body = text(1, table.name) + text(3, name)
    return _request(Nft.NEWCHAIN, table, _CREATE, body, f"chain {name}")


def add_base_chain(table: Table, name: str, kind: str, hook: Hook, priority: int) -> Request:
    """A chain that packets meet. kind: nat or filter."""
    body = (
        text(1, table.name)
        + text(3, name)
        + nested(4, be32(1, hook), be32(2, priority & 0xFFFFFFFF))
        + text(7, kind)
    )
    return _request(Nft.NEWCHAIN, table, _CREATE, body, f"chain {name}")


def add_rule(table: Table, chain: str, *expressions: bytes) -> Request:
    body = text(1, table.name) + text(2, chain) + nested(4, *expressions)
    flags = MessageFlag.CREATE | MessageFlag.APPEND
    return _request(Nft.NEWRULE, table, flags, body, f"rule of chain {chain}")


def add_set(table: Table, name: str, key: Sequence[Type], data: Sequence[Type] = ()) -> Request:
    """A named set, or a map if `data` says what keys lead to."""
    body = (
        text(1, table.name)
        + text(2, name)
        + be32(3, _MAP if data else 0)
        + be32(4, _type_number(key))
        + be32(5, _type_bytes(key))
        + be32(10, 1)  # an id within the batch, wanted even where no rule refers to it
    )
    if data:
        body += be32(6, _type_number(data)) + be32(7, _type_bytes(data))
    return _request(Nft.NEWSET, table, _CREATE, body, f"set {name}")


def add_elements(table: Table, elements: Sequence[Element]) -> list[Request]:
    """EEXIST (FileExistsError) if a key is there already."""
    flags = MessageFlag.CREATE | MessageFlag.EXCLUSIVE
    return _elements(Nft.NEWSETELEM, flags, table, elements)


def delete_elements(table: Table, elements: Sequence[Element]) -> list[Request]:
    """ENOENT (FileNotFoundError) if a key is not there. Data and comments play no part."""
    return _elements(Nft.DELSETELEM, MessageFlag.NONE, table, elements)


def _elements(
    kind: Nft, flags: MessageFlag, table: Table, elements: Sequence[Element]
) -> list[Request]:
    requests = []
    for set_name in sorted({element.set_name for element in elements}):
        members = [element for element in elements if element.set_name == set_name]
        for start in range(0, len(members), _ELEMENTS_PER_MESSAGE):
            listed = b"".join(map(_element, members[start : start + _ELEMENTS_PER_MESSAGE]))
            body = text(1, table.name) + text(2, set_name) + nested(3, listed)
            requests.append(_request(kind, table, flags, body, f"elements of {set_name}"))
    return requests


def _element(element: Element) -> bytes:
    body = nested(1, value(element.key))
    if element.data:
        body += nested(2, value(element.data))
    if element.comment:
        body += attribute(6, _comment(element.comment))
    return nested(_IN_LIST, body)


def _comment(comment: str) -> bytes:
    """nft's user data: type 0, length, zero-terminated text."""
    data = comment.encode()[:_COMMENT_BYTES].decode(errors="ignore").encode() + b"\0"
    return struct.pack("BB", 0, len(data)) + data


def _type_number(types: Sequence[Type]) -> int:
    number = 0
    for item in types:
        number = number << 6 | item
    return number


def _type_bytes(types: Sequence[Type]) -> int:
    if len(types) == 1:
        return _TYPE_BYTES[types[0]]
    return sum((_TYPE_BYTES[item] + 3) & ~3 for item in types)


def _request(kind: Nft, table: Table, flags: MessageFlag, body: bytes, what: str = "") -> Request:
    header = _HEADER.pack(table.family, 0, 0)
    where = f"nftables table {'ip' if table.family == Family.IPV4 else 'ip6'} {table.name}"
    return Request(
        _SUBSYSTEM << 8 | kind, header + body, flags, f"{where}: {what}" if what else where
    )
