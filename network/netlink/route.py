"""rtnetlink messages: links, addresses, routes. Builders and parsers, pure. See rtnetlink(7)."""

from __future__ import annotations

import enum
import ipaddress
import socket
import struct
from dataclasses import dataclass

from network.config import Address, Network
from network.netlink.wire import (
    MessageFlag,
    Reply,
    Request,
    attribute,
    attributes,
    nested,
    string,
    text,
    u8,
    u32,
)
from network.result import Traffic

_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg
_STATS = struct.Struct("=BxHII")  # if_stats_msg: family, padding, index, wanted
_COUNTERS = struct.Struct("=8Q")  # rtnl_link_stats64 begins as Traffic does
_AF_BRIDGE_MODE_HAIRPIN = 1
_UP = 1  # IFF_UP
_ADDRESS_NODAD = 0x02  # IFA_F_NODAD: usable at once, no duplicate address detection
_MAIN_TABLE = 254
_LOCAL_TABLE = 255
_UNICAST = 1
_PROTOCOL_STATIC = 4
_VETH_PEER = 1  # VETH_INFO_PEER
_NO_LINK_LOCAL = 1  # IN6_ADDR_GEN_MODE_NONE

LOOPBACK_INDEX = 1  # in every network namespace
GROUP_IPV6_ROUTE = 11  # RTNLGRP_IPV6_ROUTE


class Rtm(enum.IntEnum):
    """RTM_* of linux/rtnetlink.h."""

    NEWLINK = 16
    DELLINK = 17
    GETLINK = 18
    SETLINK = 19
    NEWADDR = 20
    NEWROUTE = 24
    GETROUTE = 26
    GETSTATS = 94


class Ifla(enum.IntEnum):
    """IFLA_* of linux/if_link.h."""

    ADDRESS = 1
    IFNAME = 3
    MTU = 4
    MASTER = 10
    LINKINFO = 18
    IFALIAS = 20
    AF_SPEC = 26
    GROUP = 27
    NET_NS_FD = 28


class LinkInfo(enum.IntEnum):
    """IFLA_INFO_* of linux/if_link.h."""

    KIND = 1
    DATA = 2
    SLAVE_KIND = 4
    SLAVE_DATA = 5


class Rta(enum.IntEnum):
    """RTA_* of linux/rtnetlink.h."""

    DST = 1
    OIF = 4
    GATEWAY = 5


_STATS_LINK_64 = 1  # IFLA_STATS_LINK_64
_INET6_ADDR_GEN_MODE = 8  # IFLA_INET6_ADDR_GEN_MODE
_BRPORT_MODE = 4  # IFLA_BRPORT_MODE
_ALIAS_LENGTH = 200  # the kernel's limit is 256 bytes (IFALIASZ)
_CREATE = MessageFlag.CREATE | MessageFlag.EXCLUSIVE


@dataclass(frozen=True, slots=True)
class Veth:
    """A pair to be: `name` here, on the bridge; `peer_name` in the namespace behind `netns_fd`."""

    name: str
    bridge_index: int
    peer_name: str
    peer_mac: bytes
    netns_fd: int
    mtu: int
    alias: str
    ipv6: bool = True  # whether the kernel knows IPv6, and so takes settings for it


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel describes it. master: its bridge's index, 0: none."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    master: int
    group: int
    alias: str
    up: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table. index: of its interface, 0 where it has several."""

    network: Network
    index: int


def create_bridge(name: str, mac: bytes, mtu: int) -> Request:
    """A bridge with a MAC of its own: without one it changes as ports come and go."""
    body = (
        _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        + text(Ifla.IFNAME, name)
        + attribute(Ifla.ADDRESS, mac)
        + u32(Ifla.MTU, mtu)
        + nested(Ifla.LINKINFO, text(LinkInfo.KIND, "bridge"))
    )
    return Request(Rtm.NEWLINK, body, _CREATE, f"bridge {name}")


def create_veth(veth: Veth) -> tuple[Request, Request]:
    """The pair, its near end on the bridge and up.

    Hairpin, so that a pod reaches itself through its own host port. No IPv6 link-local address
    on the near end, which nobody would use and every pod would pay for. The far end must not be
    up when it is made, the kernel refuses that (veth_newlink: ENOTCONN).
    """
    peer = (
        _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        + text(Ifla.IFNAME, veth.peer_name)
        + u32(Ifla.MTU, veth.mtu)
        + attribute(Ifla.ADDRESS, veth.peer_mac)
        + u32(Ifla.NET_NS_FD, veth.netns_fd)
    )
    pair = (
        _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        + text(Ifla.IFNAME, veth.name)
        + u32(Ifla.MTU, veth.mtu)
        + u32(Ifla.MASTER, veth.bridge_index)
        + nested(
            Ifla.LINKINFO,
            text(LinkInfo.KIND, "veth"),
            nested(LinkInfo.DATA, nested(_VETH_PEER, peer)),
        )
    )
    port = (
        _LINK.pack(socket.AF_UNSPEC, 0, 0, _UP, _UP)
        + text(Ifla.IFNAME, veth.name)
        + text(Ifla.IFALIAS, veth.alias[:_ALIAS_LENGTH])
        + nested(
            Ifla.LINKINFO,
            text(LinkInfo.SLAVE_KIND, "bridge"),
            nested(LinkInfo.SLAVE_DATA, u8(_BRPORT_MODE, _AF_BRIDGE_MODE_HAIRPIN)),
        )
    )
    if veth.ipv6:
        mode = u8(_INET6_ADDR_GEN_MODE, _NO_LINK_LOCAL)
        port += nested(Ifla.AF_SPEC, nested(socket.AF_INET6, mode))
    return (
        Request(Rtm.NEWLINK, pair, _CREATE, f"veth {veth.name}, {veth.peer_name} in the pod"),
        Request(Rtm.NEWLINK, port, what=f"bridge port {veth.name}"),
    )


def set_up(index: int, what: str) -> Request:
    return Request(Rtm.SETLINK, _LINK.pack(socket.AF_UNSPEC, 0, index, _UP, _UP), what=f"{what} up")


def set_mtu(index: int, mtu: int, what: str) -> Request:
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + u32(Ifla.MTU, mtu)
    return Request(Rtm.SETLINK, body, what=f"{what} mtu {mtu}")


def set_group(name: str, group: int) -> Request:
    """Puts an interface into a group, by which `delete_group` finds it."""
    body = (
        _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(Ifla.IFNAME, name) + u32(Ifla.GROUP, group)
    )
    return Request(Rtm.SETLINK, body, what=f"interface {name} group {group}")


def delete_group(group: int) -> Request:
    """Deletes all interfaces of a group at once, for the price of one (ENODEV: it has none)."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + u32(Ifla.GROUP, group)
    return Request(Rtm.DELLINK, body, what=f"deleting the interfaces of group {group}")


def get_link(name: str) -> Request:
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(Ifla.IFNAME, name)
    return Request(Rtm.GETLINK, body, what=f"interface {name}")


def get_links() -> Request:
    return Request(Rtm.GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0), what="listing interfaces")


def get_counters() -> Request:
    """Of all interfaces: an eighth of what `get_links` would be answered (Linux 4.7)."""
    body = _STATS.pack(socket.AF_UNSPEC, 0, 0, 1 << (_STATS_LINK_64 - 1))
    return Request(Rtm.GETSTATS, body, what="reading interfaces' counters")


def add_address(index: int, address: Address, prefix: int) -> Request:
    """An address that works from the first packet on. One that is there already is left as is."""
    body = (
        _ADDRESS.pack(_family(address), prefix, _ADDRESS_NODAD, 0, index)
        + attribute(2, address.packed)  # IFA_LOCAL
        + attribute(1, address.packed)  # IFA_ADDRESS
    )
    if address.version == 4:
        network = ipaddress.ip_network((address, prefix), strict=False)
        body += attribute(4, network.broadcast_address.packed)  # IFA_BROADCAST
    flags = MessageFlag.CREATE | MessageFlag.REPLACE
    return Request(Rtm.NEWADDR, body, flags, f"address {address}/{prefix}")


def add_default_route(index: int, gateway: Address) -> Request:
    body = (
        _ROUTE.pack(_family(gateway), 0, 0, 0, _MAIN_TABLE, _PROTOCOL_STATIC, 0, _UNICAST, 0)
        + attribute(Rta.GATEWAY, gateway.packed)
        + u32(Rta.OIF, index)
    )
    return Request(Rtm.NEWROUTE, body, _CREATE, f"default route by {gateway}")


def get_routes(version: int) -> Request:
    """The main table of IPv4 or IPv6."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, 0, 0, 0, _MAIN_TABLE, 0, 0, 0, 0)
    return Request(Rtm.GETROUTE, body, what=f"listing IPv{version} routes")


def parse_link(reply: Reply) -> Link:
    _family, _kind, index, flags, _change = _LINK.unpack_from(reply.body)
    values = attributes(reply.body[_LINK.size :])
    information = attributes(values.get(Ifla.LINKINFO, b""))
    return Link(
        index=index,
        name=string(values[Ifla.IFNAME]),
        kind=string(information.get(LinkInfo.KIND, b"")),
        mac=values.get(Ifla.ADDRESS, b"").hex(":"),
        mtu=_number(values.get(Ifla.MTU)),
        master=_number(values.get(Ifla.MASTER)),
        group=_number(values.get(Ifla.GROUP)),
        alias=string(values.get(Ifla.IFALIAS, b"")),
        up=bool(flags & _UP),
    )


def parse_counters(reply: Reply) -> tuple[int, Traffic]:
    """The interface's index, and its numbers."""
    _family, _padding, index, _mask = _STATS.unpack_from(reply.body)
    values = attributes(reply.body[_STATS.size :])
    return index, Traffic(*_COUNTERS.unpack_from(values[_STATS_LINK_64]))


def parse_route(reply: Reply) -> Route | None:
    """The route, or None if it is of another table or leads nowhere (blackhole, prohibit …)."""
    family, prefix, _source, _tos, table, _by, _scope, kind, _flags = _ROUTE.unpack_from(reply.body)
    if table != _MAIN_TABLE or kind != _UNICAST:
        return None
    values = attributes(reply.body[_ROUTE.size :])
    nothing = bytes(4 if family == socket.AF_INET else 16)
    network = ipaddress.ip_network((values.get(Rta.DST, nothing), prefix))
    return Route(network, _number(values.get(Rta.OIF)))


def takes_packets_for(address: Address, reply: Reply) -> bool:
    """Whether this message says that `address` has become local: a new route of table local."""
    if reply.kind != Rtm.NEWROUTE:
        return False
    _family, _prefix, _source, _tos, table, *_ = _ROUTE.unpack_from(reply.body)
    destination = attributes(reply.body[_ROUTE.size :]).get(Rta.DST)
    return bool(table == _LOCAL_TABLE and destination == address.packed)


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _number(value: bytes | None) -> int:
    return int(struct.unpack_from("=I", value)[0]) if value else 0
