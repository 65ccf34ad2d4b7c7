"""Forgets connections that remember how things were before a pod came or after it went.

UDP knows no end: a client that goes on sending from the same port keeps its old translation alive,
and so never reaches the pod behind a new one. See ctnetlink, linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import struct
from contextlib import suppress

from network.config import Address
from network.netlink.channel import Channel
from network.netlink.wire import MessageFlag, Request, attribute, attributes, nested, u8, u32

_HEADER = struct.Struct(">BBH")
_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = 1, 2  # IPCTNL_MSG_CT_*
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_*
_IP, _PROTOCOL = 1, 2  # CTA_TUPLE_*
_NUMBER, _DESTINATION_PORT = 1, 3  # CTA_PROTO_*
_BY_SOURCE, _BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 0, 1 << 3, 1 << 5  # CTA_FILTER_F_*
_UDP = 17
_FAMILY = {4: 2, 6: 10}
_SOURCE = {4: 1, 6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC


def forget_udp_to_port(channel: Channel, version: int, port: int) -> int:
    """Forgets UDP exchanges that were sent to `port`, whatever the address. Answers how many."""
    tuple_ = nested(
        _PROTOCOL, u8(_NUMBER, _UDP), attribute(_DESTINATION_PORT, port.to_bytes(2, "big"))
    )
    body = nested(_ORIGINAL, tuple_) + nested(
        _FILTER, u32(_ORIGINAL, _BY_PROTOCOL | _BY_DESTINATION_PORT)
    )
    wanted = (_ORIGINAL, _PROTOCOL, _DESTINATION_PORT, port.to_bytes(2, "big"))
    return _forget(channel, version, body, wanted)


def forget_udp_of_pod(channel: Channel, pod: Address) -> int:
    """Forgets UDP exchanges that `pod` answers, by whatever way they came. Answers how many."""
    source = _SOURCE[pod.version]
    tuple_ = nested(_IP, attribute(source, pod.packed)) + nested(_PROTOCOL, u8(_NUMBER, _UDP))
    body = nested(_REPLY, tuple_) + nested(_FILTER, u32(_REPLY, _BY_SOURCE | _BY_PROTOCOL))
    return _forget(channel, pod.version, body, (_REPLY, _IP, source, pod.packed))


def _forget(
    channel: Channel, version: int, filter_: bytes, wanted: tuple[int, int, int, bytes]
) -> int:
    """Lets the kernel filter, and checks each entry all the same: before 5.8 it lists them all."""
    direction, part, kind, value = wanted
    header = _HEADER.pack(_FAMILY[version], 0, 0)
    query = Request(_SUBSYSTEM << 8 | _GET, header + filter_, what="listing connections")
    count = 0
    for reply in channel.dump(query):
        entry = attributes(reply.body[_HEADER.size :])
        ends = attributes(entry[direction])
        protocol = attributes(ends[_PROTOCOL])
        if protocol[_NUMBER] != bytes([_UDP]) or attributes(ends[part]).get(kind) != value:
            continue
        body = header + nested(_ORIGINAL, entry[_ORIGINAL]) + attribute(_ID, entry[_ID])
        if _ZONE in entry:
            body += attribute(_ZONE, entry[_ZONE])
        delete = Request(_SUBSYSTEM << 8 | _DELETE, body, MessageFlag.NONE, "connection")
        with suppress(FileNotFoundError):  # it ended meanwhile
            channel.transact([delete])
            count += 1
    return count
