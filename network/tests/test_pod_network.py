"""Pods on the real kernel: what they reach, and what reaches them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from typing import Any

import pytest

from network.netlink.channel import Channel
from network.result import PortMapping
from network.tests import guest as here
from network.tests.lab import (
    BRIDGE,
    GATEWAY4,
    GATEWAY6,
    V4,
    V6,
    Guest,
    Lab,
    has_sysctl,
    in_a_node,
    ip,
    run,
    sandbox_id,
    sysctl,
)

NODE4, NODE6 = "192.0.2.1", "2001:db8::1"
OUTSIDE4, OUTSIDE6 = "192.0.2.2", "2001:db8::2"
STALLED = 0.5  # seconds; a lost ARP request is repeated after one


@in_a_node
async def test_pods_reach_each_other_and_their_gateway_by_both_families() -> None:
    async with Lab() as lab:
        first, result = await lab.pod(1)
        second, other = await lab.pod(2)
        assert result.ips == ("10.87.0.2", "fd00:87::2")
        assert result.gateways == (GATEWAY4, GATEWAY6)
        assert result.interface == "eth0"
        for address in (*other.ips, *other.gateways):
            assert first.ping(address), address
        for address in result.ips:
            assert second.ping(address), address
        assert first.ping("127.0.0.1")
        assert first.ping("::1")


@pytest.mark.parametrize("subnet", [V4, V6])
@in_a_node
async def test_one_family_is_enough(subnet: str) -> None:
    async with Lab(subnet) as lab:
        first, _ = await lab.pod(1)
        _, other = await lab.pod(2)
        assert len(other.ips) == 1
        assert first.ping(other.ips[0])
        assert first.ping(other.gateways[0])


@in_a_node
async def test_the_kernel_has_what_was_asked_for() -> None:
    async with Lab(mtu=1400) as lab:
        guest, result = await lab.pod(1)
        (link,) = ip(f"-d link show dev {result.host_interface}")
        assert link["master"] == BRIDGE
        assert link["mtu"] == 1400
        assert link["ifalias"].startswith("podwright default/pod-1 000000000001")
        assert link["linkinfo"]["info_slave_data"]["hairpin"]
        assert link["linkinfo"]["info_slave_data"]["state"] == "forwarding"
        assert link["inet6_addr_gen_mode"] == "none"
        (inside,) = json.loads(guest.run("ip -j addr show dev eth0"))
        assert inside["address"] == result.mac
        assert inside["mtu"] == 1400
        addresses = {item["local"]: item for item in inside["addr_info"]}
        assert addresses["10.87.0.2"]["prefixlen"] == 16
        assert addresses["10.87.0.2"]["broadcast"] == "10.87.255.255"
        assert addresses["fd00:87::2"]["prefixlen"] == 64
        assert addresses["fd00:87::2"]["nodad"]
        (route,) = json.loads(guest.run("ip -j route show default"))
        assert (route["gateway"], route["dev"]) == (GATEWAY4, "eth0")
        (route,) = json.loads(guest.run("ip -j -6 route show default"))
        assert (route["gateway"], route["dev"]) == (GATEWAY6, "eth0")
        (bridge,) = ip(f"-d addr show dev {BRIDGE}")
        assert {GATEWAY4, GATEWAY6} <= {item["local"] for item in bridge["addr_info"]}
        assert sysctl(f"ipv6/conf/{BRIDGE}/accept_ra") == 0


@in_a_node
async def test_the_first_packet_never_stalls() -> None:
    async with Lab() as lab:
        for number in range(1, 31):
            guest = lab.guest()
            result = await lab.attach(guest, number)
            ways: list[tuple[Any, str]] = [(guest, gateway) for gateway in result.gateways]
            ways += [(here, address) for address in result.ips]  # kubelet's probes
            first = number % len(ways)
            for source, address in ways[first:] + ways[:first]:
                (seconds,) = source.ping(address, wait=5)
                assert seconds < STALLED, (number, address, seconds)
            guest.close()
            await lab.network.detach(f"{number:012x}{'0' * 52}")
            await lab.network.collect(())  # the bridge has no port now, and so no carrier


@in_a_node
async def test_the_world_reaches_the_first_pod_of_a_node_at_once() -> None:
    async with Lab() as lab:
        outside = lab.outside()
        outside.run(f"ip route add {V4} via {NODE4}; ip -6 route add {V6} via {NODE6}")
        _, result = await lab.pod(1)
        for address in result.ips:
            (seconds,) = outside.ping(address, wait=5)
            assert seconds < STALLED, (address, seconds)


@pytest.mark.parametrize("masquerade", [True, False])
@in_a_node
async def test_pods_leave_with_the_nodes_address_if_so_configured(masquerade: bool) -> None:
    async with Lab(masquerade=masquerade) as lab:
        outside = lab.outside()
        outside.tcp_serve(80)
        outside.run(f"ip route add {V4} via {NODE4}; ip -6 route add {V6} via {NODE6}")
        pod, result = await lab.pod(1)
        seen = [pod.tcp_ask(OUTSIDE4, 80), pod.tcp_ask(OUTSIDE6, 80)]
        assert seen == ([NODE4, NODE6] if masquerade else list(result.ips))
        assert outside.tcp_ask(result.ips[0], 80) == "ConnectionRefusedError"  # the way in is open


@pytest.mark.parametrize("bridged_packets_meet_netfilter", [True, False])
@in_a_node
async def test_host_ports_work_from_everywhere(bridged_packets_meet_netfilter: bool) -> None:
    if has_sysctl("bridge"):  # else br_netfilter is not loaded, and they don't
        for family in ("ip", "ip6"):
            sysctl(f"bridge/bridge-nf-call-{family}tables", int(bridged_packets_meet_netfilter))
    async with Lab() as lab:
        outside = lab.outside()
        pod, _ = await lab.pod(1, PortMapping(8080, 80), PortMapping(8081, 81))
        other, _ = await lab.pod(2)
        pod.tcp_serve(80)
        pod.tcp_serve(81)
        assert outside.tcp_ask(NODE4, 8080) == OUTSIDE4  # the client's address is kept
        assert outside.tcp_ask(NODE6, 8080) == OUTSIDE6
        assert outside.tcp_ask(NODE4, 8081) == OUTSIDE4
        for client in (pod, other):  # the first is a hairpin
            assert client.tcp_ask(NODE4, 8080) == GATEWAY4
            assert client.tcp_ask(NODE6, 8080) == GATEWAY6
            assert client.tcp_ask(GATEWAY4, 8080) == GATEWAY4
        assert here.tcp_ask("127.0.0.1", 8080) == GATEWAY4
        assert here.tcp_ask(NODE4, 8080) == NODE4
        assert here.tcp_ask(NODE6, 8080) == NODE6
        assert (
            here.tcp_ask("::1", 8080) == "ConnectionRefusedError"
        )  # IPv6 can't; at least it says so
        assert outside.tcp_ask(NODE4, 80) == "ConnectionRefusedError"
        await lab.network.detach(f"{1:012x}{'0' * 52}")
        assert outside.tcp_ask(NODE4, 8080) == "ConnectionRefusedError"


@in_a_node
async def test_a_host_port_may_be_bound_to_an_address() -> None:
    async with Lab() as lab:
        outside = lab.outside()
        pod, _ = await lab.pod(
            1,
            PortMapping(9090, 80, host_ip=NODE4),
            PortMapping(9091, 80, host_ip="127.0.0.1"),
            PortMapping(9092, 80, host_ip="::"),
            PortMapping(9093, 80, host_ip=NODE6),
        )
        pod.tcp_serve(80)
        refused = "ConnectionRefusedError"
        assert outside.tcp_ask(NODE4, 9090) == OUTSIDE4
        assert outside.tcp_ask(NODE6, 9090) == refused
        assert here.tcp_ask("127.0.0.1", 9090) == refused
        assert outside.tcp_ask(NODE4, 9091) == refused
        assert here.tcp_ask("127.0.0.1", 9091) == GATEWAY4
        assert outside.tcp_ask(NODE4, 9092) == refused
        assert outside.tcp_ask(NODE6, 9092) == OUTSIDE6
        assert outside.tcp_ask(NODE6, 9093) == OUTSIDE6


@in_a_node
async def test_udp_finds_the_new_pod_at_once_even_from_a_port_that_knew_another() -> None:
    mapping = PortMapping(5353, 53, "udp")
    async with Lab() as lab:
        outside = lab.outside()

        def ask(family: int) -> str:
            address, port = {4: (NODE4, 4444), 6: (NODE6, 6666)}[family]
            return str(outside.udp_ask(address, 5353, source_port=port, wait=1.0))

        def serve(guest: Guest, word: str) -> None:
            guest.udp_serve(53, word=word)
            guest.udp_serve(53, "fd00:87::" + word, word=word)

        here.udp_serve(5353, word="node")
        assert ask(4) == "node"
        outside.udp_ask(NODE6, 5353, source_port=6666, wait=0.1)  # nobody answers
        for number in (2, 3):
            guest, _ = await lab.pod(number, mapping)
            serve(guest, str(number))
            seen = [ask(4), ask(6)]
            assert seen == [str(number)] * 2, seen
            await lab.network.detach(f"{number:012x}{'0' * 52}")
        assert ask(4) == "node"


@in_a_node
async def test_pods_do_not_reach_what_listens_on_the_nodes_loopback() -> None:
    async with Lab() as lab:
        pod, result = await lab.pod(1)
        mac = ip(f"link show dev {BRIDGE}")[0]["address"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as private:
            private.bind(("127.0.0.1", 5555))
            private.settimeout(0.3)
            pod.send_to_loopback_of(mac, result.ips[0], 5555)
            with pytest.raises(TimeoutError):
                private.recv(100)
            run("nft", "flush", "chain", "ip", BRIDGE, "guard")  # it is the guard that stops them
            pod.send_to_loopback_of(mac, result.ips[0], 5555)
            assert private.recv(100) == b"let me in"


@in_a_node
async def test_ten_pods_at_once_all_get_their_own() -> None:
    async with Lab() as lab:
        guests = [lab.guest() for _ in range(10)]
        results = await asyncio.gather(
            *[
                lab.attach(guest, number, PortMapping(8000 + number, 80))
                for number, guest in enumerate(guests, 1)
            ]
        )
        assert len({result.ips for result in results}) == 10
        for guest, result in zip(guests, results, strict=True):
            assert guest.ping(GATEWAY4)
            assert guest.ping(results[0].ips[1]), result


@in_a_node
async def test_a_node_that_lives_by_router_advertisements_goes_on_to_do_so() -> None:
    ip("link add uplink0 type veth peer name uplink1")
    ip("link add uplink2 type veth peer name uplink3")
    sysctl("ipv6/conf/uplink2/accept_ra", 0)
    sysctl("ipv6/conf/all/forwarding", 0)
    async with Lab():
        assert sysctl("ipv6/conf/all/forwarding") == 1
        assert sysctl("ipv6/conf/uplink0/accept_ra") == 2  # also while forwarding
        assert sysctl("ipv6/conf/uplink2/accept_ra") == 0
        assert sysctl("ipv4/ip_forward") == 1


@in_a_node
async def test_a_device_goes_to_no_other_pod_when_nobody_waits_for_it_any_more() -> None:
    """Who asked closes his descriptor, and the next pod's gets its number."""
    begun, go = threading.Event(), threading.Event()
    really_open = Channel.open

    def open_late(family: int) -> Channel:
        begun.set()
        assert go.wait(10)
        return really_open(family)

    async with Lab() as lab:
        monkeypatch = pytest.MonkeyPatch()
        first, _ = await lab.pod(1)
        second, _ = await lab.pod(2)
        run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
        monkeypatch.setattr(Channel, "open", open_late)
        fd = os.dup(first.netlink_fd)
        taking = asyncio.create_task(
            lab.network.take_devices(sandbox_id(1), {"spare0": "net1"}, fd)
        )
        await asyncio.to_thread(begun.wait, 10)
        taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await taking
        os.dup2(second.netlink_fd, fd)
        go.set()
        await lab.network.detach(sandbox_id(2))  # by the same worker
        monkeypatch.undo()
        os.close(fd)
        assert "net1" in first.run("ip -br link")
        assert "net1" not in second.run("ip -br link")
        await lab.network.give_back_devices(sandbox_id(1), first.netlink_fd)
        assert "spare0" in run("ip", "-br", "link")
