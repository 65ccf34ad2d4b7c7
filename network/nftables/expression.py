"""The expressions of nftables' virtual machine, of which rules are made. Pure.

Each function answers one encoded expression. A register is a 32-bit word numbered from FIRST; a
value that is longer lies in consecutive ones, and so do the parts of a concatenated key. Names and
numbers are those of include/uapi/linux/netfilter/nf_tables.h, where all numbers travel big-endian.
"""

from __future__ import annotations

import enum
import struct

from network.netlink.wire import attribute, be32, nested, text, u8

FIRST = 8  # NFT_REG32_00
WORD = 4  # bytes
_VERDICT_REGISTER = 0
_EXPRESSION = 1  # NFTA_LIST_ELEM
_VALUE, _VERDICT = 1, 2  # NFTA_DATA_*
_GOTO = -4 & 0xFFFFFFFF
_DROP = 0
_EQUAL, _NOT_EQUAL = 0, 1


class Base(enum.IntEnum):
    """NFT_PAYLOAD_*: from where in a packet an offset counts."""

    NETWORK = 1
    TRANSPORT = 2


class Meta(enum.IntEnum):
    """NFT_META_*."""

    IN_INTERFACE_NAME = 6
    L4_PROTOCOL = 16


class Ct(enum.IntEnum):
    """NFT_CT_*."""

    STATUS = 2
    DESTINATION_PORT = 12


def words(length: int) -> int:
    """How many registers `length` bytes take."""
    return (length + WORD - 1) // WORD


def value(data: bytes) -> bytes:
    """The inside of an attribute that holds data (NFTA_DATA_VALUE)."""
    return attribute(_VALUE, data)


def payload(register: int, base: Base, offset: int, length: int) -> bytes:
    """Loads bytes of the packet."""
    return _expression(
        "payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, length)
    )


def meta(register: int, key: Meta) -> bytes:
    """Loads what is known about the packet besides its bytes."""
    return _expression("meta", be32(1, register), be32(2, key))


def ct_status(register: int) -> bytes:
    """Loads the connection's IPS_* bits."""
    return _expression("ct", be32(1, register), be32(2, Ct.STATUS))


def ct_original_port(register: int) -> bytes:
    """Loads the port to which the connection's first packet went, before any translation."""
    return _expression("ct", be32(1, register), be32(2, Ct.DESTINATION_PORT), u8(3, 0))


def fib_destination_type(register: int) -> bytes:
    """Loads what the destination address is to this node: RTN_LOCAL, RTN_UNICAST …"""
    return _expression("fib", be32(1, register), be32(2, 3), be32(3, 2))


def mask(register: int, bits: bytes) -> bytes:
    """register &= bits."""
    size = len(bits)
    return _expression(
        "bitwise",
        be32(1, register),
        be32(2, register),
        be32(3, size),
        nested(4, value(bits)),
        nested(5, value(bytes(size))),
    )


def equal(register: int, data: bytes) -> bytes:
    """Leaves the rule unless register == data."""
    return _expression("cmp", be32(1, register), be32(2, _EQUAL), nested(3, value(data)))


def differ(register: int, data: bytes) -> bytes:
    """Leaves the rule unless register != data."""
    return _expression("cmp", be32(1, register), be32(2, _NOT_EQUAL), nested(3, value(data)))


def member(set_name: str, register: int) -> bytes:
    """Leaves the rule unless the set has the key that starts at `register`."""
    return _expression("lookup", text(1, set_name), be32(2, register))


def translate(map_name: str, register: int) -> bytes:
    """Replaces the key that starts at `register` by what the map has for it; else leaves."""
    return _expression("lookup", text(1, map_name), be32(2, register), be32(3, register))


def dnat(family: int, address: int, port: int) -> bytes:
    """Sends the connection to the address and port in these registers."""
    return _expression("nat", be32(1, 1), be32(2, family), be32(3, address), be32(5, port))


def masquerade() -> bytes:
    """Gives the connection the address of the interface by which it leaves."""
    return _expression("masq")


def goto(chain: str) -> bytes:
    return _immediate(nested(_VERDICT, be32(1, _GOTO), text(2, chain)))


def drop() -> bytes:
    return _immediate(nested(_VERDICT, be32(1, _DROP)))


def host32(number: int) -> bytes:
    """A number as registers hold it that do not come out of a packet."""
    return struct.pack("=I", number)


def _immediate(data: bytes) -> bytes:
    return _expression("immediate", be32(1, _VERDICT_REGISTER), nested(2, data))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(_EXPRESSION, text(1, name), nested(2, *attributes))
