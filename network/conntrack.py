"""Forgets connections that remember how things were before a pod came or after it went.

UDP knows no end: a client that goes on sending from the same port keeps its old translation alive,
and so never reaches the pod behind a new one. See ctnetlink, linux/netfilter/nfnetlink_conntrack.h.

Listing costs the kernel a walk over its whole table, some milliseconds even if that is empty. So
there is one listing per family and call, and only pods with UDP host ports pay for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from network.config import Address
from network.netlink.channel import Channel
from network.netlink.wire import Request, attribute, attributes, nested, u8, u32

_HEADER = struct.Struct(">BBH")
_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = 1, 2  # IPCTNL_MSG_CT_*
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_*
_ADDRESSES, _PROTOCOL = 1, 2  # CTA_TUPLE_*
_NUMBER, _DESTINATION_PORT = 1, 3  # CTA_PROTO_*
_SOURCE = {4: 1, 6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
_FAMILY = {4: 2, 6: 10}
_BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_*
_UDP = 17

Entry = Mapping[int, bytes]


def forget_udp_to(channel: Channel, version: int, ports: Collection[int]) -> int:
    """Forgets UDP exchanges that were sent to one of these ports. Answers how many."""
    return _forget(channel, version, ports, lambda _entry: True)


def forget_udp_answered_by(channel: Channel, pod: Address, ports: Collection[int]) -> int:
    """The same, of those only that the pod answers."""

    def answered(entry: Entry) -> bool:
        addresses = attributes(attributes(entry[_REPLY])[_ADDRESSES])
        return addresses.get(_SOURCE[pod.version]) == pod.packed

    return _forget(channel, pod.version, ports, answered)


def _forget(
    channel: Channel, version: int, ports: Collection[int], wanted: Callable[[Entry], bool]
) -> int:
    wire_ports = {port.to_bytes(2, "big") for port in ports}
    count = 0
    for reply in channel.dump(_query(_FAMILY[version], wire_ports)):
        entry = attributes(reply.body[_HEADER.size :])
        protocol = attributes(attributes(entry[_ORIGINAL])[_PROTOCOL])
        # Checked although the kernel filters: before 5.8 it lists them all.
        if (
            protocol[_NUMBER] == bytes([_UDP])
            and protocol.get(_DESTINATION_PORT) in wire_ports
            and wanted(entry)
        ):
            with suppress(FileNotFoundError):  # it ended meanwhile
                channel.transact([_delete(_FAMILY[version], entry)])
                count += 1
    return count


def _query(family: int, ports: Collection[bytes]) -> Request:
    """UDP entries of one family; with a single port, those to that port."""
    values, by = u8(_NUMBER, _UDP), _BY_PROTOCOL
    if len(ports) == 1:
        (port,) = ports
        values, by = values + attribute(_DESTINATION_PORT, port), by | _BY_DESTINATION_PORT
    body = nested(_ORIGINAL, nested(_PROTOCOL, values)) + nested(_FILTER, u32(_ORIGINAL, by))
    header = _HEADER.pack(family, 0, 0)
    return Request(_SUBSYSTEM << 8 | _GET, header + body, what="listing connections")


def _delete(family: int, entry: Entry) -> Request:
    """One entry. (Without a tuple this would be all of them.)"""
    body = nested(_ORIGINAL, entry[_ORIGINAL]) + attribute(_ID, entry[_ID])
    if _ZONE in entry:
        body += attribute(_ZONE, entry[_ZONE])
    return Request(
        _SUBSYSTEM << 8 | _DELETE, _HEADER.pack(family, 0, 0) + body, what="deleting a connection"
    )
