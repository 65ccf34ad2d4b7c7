"""rtnetlink messages, read by pyroute2: an independent opinion on what they say."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ifstatsmsg import ifstatsmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from network.netlink import route
from network.netlink.wire import Reply, Request, attribute, decode, encode
from network.result import Traffic


def read(message: type, request: Request) -> Any:
    """The fields and attributes that pyroute2 finds in a message."""
    found = message(encode([request], 1))
    found.decode()
    return found


def test_a_veth_pair_is_what_pyroute2_reads() -> None:
    veth = route.Veth("pwabc", 7, "eth0", bytes.fromhex("0a580a570002"), 11, 1450, "an alias")
    pair, port = route.create_veth(veth)
    found = read(ifinfmsg, pair)
    assert found["header"]["type"] == route.Rtm.NEWLINK
    assert found["header"]["flags"] & 0x601 == 0x601  # REQUEST, EXCL, CREATE
    assert found.get_attr("IFLA_IFNAME") == "pwabc"
    assert found.get_attr("IFLA_MASTER") == 7
    assert found.get_attr("IFLA_MTU") == 1450
    assert found.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    peer = found.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_NET_NS_FD") == 11
    assert peer.get_attr("IFLA_ADDRESS") == "0a:58:0a:57:00:02"
    assert peer.get_attr("IFLA_MTU") == 1450
    found = read(ifinfmsg, port)
    assert (found["flags"], found["change"]) == (1, 1)
    assert found.get_attr("IFLA_IFALIAS") == "an alias"
    assert found.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND") == "bridge"
    slave = found.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
    assert slave.get_attr("IFLA_BRPORT_MODE") == 1
    inet6 = found.get_nested("IFLA_AF_SPEC", "AF_INET6")
    assert inet6.get_attr("IFLA_INET6_ADDR_GEN_MODE") == 1
    _, port = route.create_veth(replace(veth, ipv6=False))
    assert read(ifinfmsg, port).get_attr("IFLA_AF_SPEC") is None


def test_a_bridge_and_groups_are_what_pyroute2_reads() -> None:
    found = read(ifinfmsg, route.create_bridge("pw0", bytes.fromhex("0a580a570001"), 1500))
    assert found.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "bridge"
    assert found.get_attr("IFLA_ADDRESS") == "0a:58:0a:57:00:01"
    assert read(ifinfmsg, route.set_group("pw1", 99)).get_attr("IFLA_GROUP") == 99
    found = read(ifinfmsg, route.delete_group(99))
    assert found["header"]["type"] == route.Rtm.DELLINK
    assert found["index"] == 0
    assert found.get_attr("IFLA_IFNAME") is None
    assert found.get_attr("IFLA_GROUP") == 99


@pytest.mark.parametrize(
    ("address", "prefix", "broadcast"),
    [("10.87.0.2", 16, "10.87.255.255"), ("fd00:87::2", 64, None)],
)
def test_addresses_are_what_pyroute2_reads(
    address: str, prefix: int, broadcast: str | None
) -> None:
    found = read(ifaddrmsg, route.add_address(5, ip_address(address), prefix))
    assert (found["index"], found["prefixlen"], found["scope"]) == (5, prefix, 0)
    assert found["flags"] == 0x02  # IFA_F_NODAD
    assert found.get_attr("IFA_LOCAL") == found.get_attr("IFA_ADDRESS") == address
    assert found.get_attr("IFA_BROADCAST") == broadcast


@pytest.mark.parametrize("gateway", ["10.87.0.1", "fd00:87::1"])
def test_default_routes_are_what_pyroute2_reads(gateway: str) -> None:
    found = read(rtmsg, route.add_default_route(5, ip_address(gateway)))
    assert (found["dst_len"], found["table"], found["type"], found["proto"]) == (0, 254, 1, 4)
    assert found.get_attr("RTA_GATEWAY") == gateway
    assert found.get_attr("RTA_OIF") == 5


def test_links_that_pyroute2_writes_are_read() -> None:
    message = ifinfmsg()
    message["index"], message["flags"] = 9, 1
    message["attrs"] = [
        ("IFLA_IFNAME", "pw1"),
        ("IFLA_MTU", 1400),
        ("IFLA_MASTER", 4),
        ("IFLA_GROUP", 8),
        ("IFLA_IFALIAS", "words"),
        ("IFLA_ADDRESS", "0a:58:0a:57:00:02"),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}),
    ]
    message["header"]["type"] = route.Rtm.NEWLINK
    message.encode()
    (reply,) = decode(bytes(message.data))
    assert route.parse_link(reply) == route.Link(
        9,
        "pw1",
        "veth",
        "0a:58:0a:57:00:02",
        1400,
        4,
        8,
        "words",
        up=True,
        information=b"\t\0\x01\0veth\0\0\0\0",
    )


def test_counters_are_asked_for_as_pyroute2_reads_it() -> None:
    found = read(ifstatsmsg, route.get_counters())
    assert found["header"]["type"] == 94
    assert (found["family"], found["ifindex"], found["filter_mask"]) == (0, 0, 1)


def test_counters_are_read_in_the_kernels_order() -> None:
    numbers = struct.pack("=8Q", 1, 2, 3, 4, 5, 6, 7, 8) + bytes(17 * 8)
    body = struct.pack("=BxHII", 0, 0, 9, 1) + attribute(1, numbers)
    index, traffic = route.parse_counters(Reply(92, 0, 0, body))
    assert index == 9
    assert traffic == Traffic(
        rx_packets=1, tx_packets=2, rx_bytes=3, tx_bytes=4,
        rx_errors=5, tx_errors=6, rx_dropped=7, tx_dropped=8,
    )  # fmt: skip
    assert traffic.other_end() == Traffic(2, 1, 4, 3, 6, 5, 8, 7)


def test_only_unicast_routes_of_the_main_table_count() -> None:
    def reply(table: int, kind: int) -> Reply:
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, 24, 0, 0, table, 2, 0, kind, 0)
        body += struct.pack("=HH4sHHI", 8, 1, bytes([10, 1, 2, 0]), 8, 4, 3)
        return Reply(24, 0, 0, body)

    assert route.parse_route(reply(254, 1)) == route.Route(ip_network("10.1.2.0/24"), 3)
    assert route.parse_route(reply(255, 1)) is None
    assert route.parse_route(reply(254, 6)) is None
