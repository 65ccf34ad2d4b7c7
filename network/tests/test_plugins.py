"""Each plugin against what all plugins promise, and what each does besides."""

from __future__ import annotations

import tempfile
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from network.config import Address
from network.netlink.channel import NETLINK_NETFILTER, NETLINK_ROUTE, Channel
from network.netlink.linkwatch import Linkwatch
from network.nftables.layout import replace_table
from network.nftables.transaction import batch
from network.plugins import bridge, host_local, loopback, portmap
from network.result import PortMapping
from network.tests.contract_plugin import PROMISES, Subject
from network.tests.lab import Guest, in_a_node, ip, nft_elements

NETWORKS = (ip_network("10.87.0.0/16"), ip_network("fd00:87::/64"))
POD = (ip_address("10.87.0.2"), ip_address("fd00:87::2"))


class Bridge:
    """A pod's veth pair on the bridge. It goes at the latest with the sweep."""

    def __init__(self) -> None:
        self._channel = Channel.open(NETLINK_ROUTE)
        self._guest = Guest()
        self._bridge = bridge.ensure(self._channel, "pwtest0", NETWORKS, 0)
        self._port = bridge.Port(
            bridge.host_interface_of("abcdef"), "eth0", bridge.mac_of(POD[0]), POD, NETWORKS, "a"
        )

    def add(self) -> None:
        bridge.add_veth(self._channel, self._bridge, self._port, self._guest.netns_fd)
        with Channel.adopt(self._guest.netlink_fd) as pod:
            bridge.configure_pod(pod, self._port, loopback.add())

    def delete(self) -> None:
        bridge.delete(self._channel, self._port.host_interface)
        bridge.sweep(self._channel)

    def found(self) -> set[str]:
        links = {link["ifname"] for link in ip("link show")}
        return links - {"lo", "pwtest0", "sit0", "ip6tnl0", "tunl0"}


class HostLocal:
    """A pod's leases."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp())
        self._leases = host_local.Leases(self._directory, NETWORKS)
        self._given: tuple[Address, ...] = POD

    def add(self) -> None:
        self._given = self._leases.add("abcdef", "eth0")

    def delete(self) -> None:
        self._leases.delete("abcdef", self._given)

    def found(self) -> set[str]:
        return {
            path.name for path in self._directory.iterdir() if ":" in path.name or "87" in path.name
        }


class PortMap:
    """A pod's host ports."""

    def __init__(self) -> None:
        self._channel = Channel.open(NETLINK_NETFILTER)
        ports = [PortMapping(80, 80), PortMapping(53, 53, "udp", "127.0.0.1")]
        self._forwards = portmap.forwards(ports, POD)
        for network in NETWORKS:
            self._channel.commit(batch(replace_table("pwtest0", network, masquerade=True)))

    def add(self) -> None:
        portmap.add(self._channel, "pwtest0", self._forwards, "default/web")
        portmap.forget_before(self._channel, self._forwards)

    def delete(self) -> None:
        portmap.delete(self._channel, "pwtest0", self._forwards)
        portmap.forget_after(self._channel, self._forwards)

    def found(self) -> set[str]:
        return nft_elements()


SUBJECTS: dict[str, type[Subject]] = {
    "bridge": Bridge,
    "host_local": HostLocal,
    "portmap": PortMap,
}


@pytest.mark.parametrize("name", SUBJECTS)
@in_a_node
def test_every_plugin_keeps_the_promises(name: str) -> None:
    subject = SUBJECTS[name]()
    for promise in PROMISES.values():
        promise(subject)


@in_a_node
def test_ports_are_closed_even_if_some_are_gone_already() -> None:
    ports = portmap.forwards([PortMapping(80, 80), PortMapping(81, 80)], POD)
    with Channel.open(NETLINK_NETFILTER) as channel:
        for network in NETWORKS:
            channel.commit(batch(replace_table("pwtest0", network, masquerade=True)))
        portmap.add(channel, "pwtest0", ports, "")
        portmap.delete(channel, "pwtest0", ports[:1])
        portmap.delete(channel, "pwtest0", ports)
        assert not nft_elements()


@in_a_node
def test_thirty_doomed_interfaces_go_at_once_and_others_stay() -> None:
    with Channel.open(NETLINK_ROUTE) as channel:
        made = bridge.ensure(channel, "pwtest0", NETWORKS[:1], 1400)
        assert bridge.present(channel, made)
        guests = [Guest() for _ in range(3)]
        for guest in guests:
            for number in range(10):
                name = bridge.host_interface_of(f"{guests.index(guest)}{number}")
                port = bridge.Port(
                    name, f"eth{number}", bytes.fromhex(f"0a58000000{number:02x}"), (), (), ""
                )
                bridge.add_veth(channel, made, port, guest.netns_fd)
        assert len(bridge.strays(channel, made, ["pw00"])) == 29
        for name in bridge.strays(channel, made, ["pw00"]):
            bridge.delete(channel, name)
        assert bridge.strays(channel, made, []) == ("pw00",)  # those are no strays any more
        bridge.sweep(channel)
        bridge.sweep(channel)
        ports = [link["ifname"] for link in ip("link show") if link.get("master") == "pwtest0"]
        assert ports == ["pw00"]


@in_a_node
def test_the_mtu_is_that_of_the_default_route() -> None:
    ip("link add uplink0 mtu 1450 type veth peer name uplink1")
    ip("link set uplink1 up")
    ip("link set uplink0 up")
    ip("addr add 192.0.2.1/24 dev uplink0")
    with Channel.open(NETLINK_ROUTE) as channel:
        assert bridge.ensure(channel, "pwtest0", NETWORKS[:1], 0).mtu == 1500
        ip("route add default via 192.0.2.2")
        assert bridge.ensure(channel, "pwtest0", NETWORKS[:1], 0).mtu == 1450
        assert ip("link show dev pwtest0")[0]["mtu"] == 1450


@in_a_node
def test_an_interface_that_is_not_there_has_no_carrier_to_wait_for() -> None:
    watch = Linkwatch()
    with pytest.raises(OSError, match="No such device"):
        watch.sync("nowhere0")
    assert watch.sync("lo")
    watch.close()


@pytest.mark.parametrize("address", ["10.87.0.2", "fd00:87::2"])
def test_a_mac_is_local_and_follows_from_the_address(address: str) -> None:
    mac = bridge.mac_of(ip_address(address))
    assert len(mac) == 6
    assert mac[0] & 0b11 == 0b10  # locally administered, and of one station
    assert mac == bridge.mac_of(ip_address(address))
    assert mac != bridge.mac_of(ip_address(address) + 1)
