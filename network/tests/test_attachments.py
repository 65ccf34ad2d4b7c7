"""The life of an attachment: idempotence, conflicts, exhaustion, restarts, repair, undo."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from network.errors import (
    AddressesExhausted,
    HostPortTaken,
    InvalidAttachment,
    KernelRefused,
    NetworkNotReady,
)
from network.pod_network import PodNetwork
from network.result import PortMapping
from network.tests.lab import (
    BRIDGE,
    GATEWAY4,
    SCRATCH,
    V4,
    Guest,
    Lab,
    attach,
    in_a_node,
    ip,
    leftovers,
    nft_elements,
    run,
    sandbox_id,
)

PORT = PortMapping(8080, 80)


@in_a_node
async def test_attaching_twice_answers_what_the_first_time_gave() -> None:
    async with Lab() as lab:
        guest, result = await lab.pod(1, PORT)
        assert [stage[0] for stage in result.stages][:2] == ["lease addresses", "write the intent"]
        again = await lab.attach(guest, 1, PORT)
        assert again == replace(result, stages=())
        assert lab.result(sandbox_id(1)) == again


@in_a_node
async def test_detaching_leaves_nothing_with_or_without_the_namespace() -> None:
    async with Lab() as lab:
        for number, first in ((1, True), (2, False)):
            guest, _ = await lab.pod(number, PORT, PortMapping(53, 53, "udp"))
            if first:
                guest.close()
            await lab.network.detach(sandbox_id(number))
            assert lab.result(sandbox_id(number)) is None
            assert not nft_elements()
            await lab.network.detach(sandbox_id(number))
            await lab.network.collect(())
            assert not leftovers(lab)
        await lab.network.detach("never-attached")


@in_a_node
async def test_the_interface_goes_by_itself_even_if_its_namespace_stays() -> None:
    async with Lab() as lab:
        guest, result = await lab.pod(1)
        run("ip", "link", "show", "dev", result.host_interface)
        monitor = await asyncio.create_subprocess_exec(
            "ip", "monitor", "link", stdout=asyncio.subprocess.PIPE
        )
        assert monitor.stdout
        await lab.network.detach(sandbox_id(1))
        async with asyncio.timeout(20):
            async for line in monitor.stdout:
                if re.match(rf"Deleted .*{result.host_interface}@".encode(), line):
                    break
        monitor.terminate()
        await monitor.wait()
        assert "eth0" not in guest.run("ip link")


@in_a_node
async def test_a_host_port_belongs_to_one_pod_and_the_other_hears_whose_it_is() -> None:
    async with Lab() as lab:
        await lab.pod(1, PORT, PortMapping(9090, 80, host_ip="127.0.0.1"))
        before = nft_elements()
        for wanted in (PORT, PortMapping(8080, 81), PortMapping(9090, 1, host_ip="127.0.0.1")):
            with pytest.raises(HostPortTaken) as caught:
                await lab.pod(2, wanted)
            assert "already used by pod default/pod-1" in str(caught.value)
        assert nft_elements() == before
        await lab.pod(3, PortMapping(8080, 80, "udp"), PortMapping(9090, 80, host_ip="127.0.0.2"))
        await lab.network.detach(sandbox_id(1))
        await lab.pod(4, PORT)


@in_a_node
async def test_bad_ports_are_refused_by_name() -> None:
    bad = {
        "ports[1].host_port": PortMapping(70000, 80),
        "ports[1].container_port": PortMapping(80, 0),
        "ports[1].protocol": PortMapping(80, 80, "icmp"),
        "ports[1].host_ip": PortMapping(80, 80, host_ip="localhost"),
    }
    async with Lab() as lab:
        guest = lab.guest()
        for field, mapping in bad.items():
            with pytest.raises(InvalidAttachment) as caught:
                await lab.attach(guest, 1, PORT, mapping)
            assert caught.value.field == field
        assert not leftovers(lab)


@in_a_node
async def test_a_netlink_socket_of_another_namespace_is_refused() -> None:
    async with Lab() as lab:
        guest = lab.guest()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as own:
            request = replace(attach(guest, 1), netlink_fd=own.fileno())
            with pytest.raises(InvalidAttachment, match="netlink_fd"):
                await lab.network.attach(request)
        with socket.socket() as other:
            request = replace(attach(guest, 1), netlink_fd=other.fileno())
            with pytest.raises(InvalidAttachment, match="netlink_fd"):
                await lab.network.attach(request)
        assert not leftovers(lab)


@in_a_node
async def test_a_sandbox_id_never_becomes_a_path() -> None:
    async with Lab() as lab:
        guest = lab.guest()
        for bad in ("", "..", "../../etc/passwd", "a b", "-x", "x" * 200):
            with pytest.raises(InvalidAttachment, match="sandbox_id"):
                await lab.network.attach(replace(attach(guest, 1), sandbox_id=bad))


@in_a_node
async def test_a_failed_attach_leaves_nothing_and_says_what_failed() -> None:
    async with Lab() as lab:
        guest = lab.guest()
        guest.run("ip link add eth0 type veth peer name other")
        with pytest.raises(KernelRefused) as caught:
            await lab.attach(guest, 1, PORT)
        assert "pod default/pod-1" in str(caught.value)
        assert "eth0 in the pod" in str(caught.value)
        assert "File exists" in str(caught.value)
        await lab.network.collect(())
        assert not leftovers(lab)
        guest.run("ip link del eth0")
        await lab.attach(guest, 1, PORT)


@in_a_node
async def test_a_full_disk_says_so_and_keeps_nobody_attached() -> None:
    state = Path(SCRATCH) / "small"
    run("mkdir", str(state))
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(state))
    async with Lab(state=state) as lab:
        await lab.pod(1, PORT)
        fill = lab.state / "fill"
        run("sh", "-c", f"cat /dev/zero > {fill} || true")
        with pytest.raises(KernelRefused, match=r"pod default/pod-2 .*: No space left on device"):
            await lab.pod(2)
        await lab.network.detach(sandbox_id(1))
        await lab.network.collect(())
        assert leftovers(lab) == [str(fill)]


@in_a_node
async def test_a_pod_that_switched_ipv6_off_hears_why_it_gets_none() -> None:
    async with Lab() as lab:
        guest = lab.guest()
        guest.run("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
        with pytest.raises(KernelRefused, match=r"fd00:87::2/64: .*; is .*disable_ipv6"):
            await lab.attach(guest, 1)
        await lab.network.collect(())
        assert not leftovers(lab)


@in_a_node
async def test_a_full_subnet_says_so_and_recovers() -> None:
    async with Lab("10.87.0.0/29") as lab:  # five for pods
        for number in range(1, 6):
            await lab.pod(number)
        with pytest.raises(AddressesExhausted, match=r"10\.87\.0\.0/29: all 5 are leased"):
            await lab.pod(6)
        await lab.network.detach(sandbox_id(3))  # its namespace is still there, so is its address
        guest, result = await lab.pod(7)
        assert result.ips == ("10.87.0.4",)
        assert guest.ping(GATEWAY4)


@in_a_node
async def test_leases_that_nobody_has_are_found_when_addresses_run_out() -> None:
    async with Lab("10.87.0.0/30") as lab:
        directory = lab.state / "ipam" / BRIDGE
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "10.87.0.2").write_text("long-gone\r\neth0")
        _, result = await lab.pod(1)
        assert result.ips == ("10.87.0.2",)


@in_a_node
async def test_a_released_address_rests_before_it_is_given_again() -> None:
    async with Lab("10.87.0.0/29") as lab:
        seen: list[str] = []
        for number in range(1, 5):
            _, result = await lab.pod(number)
            await lab.network.detach(sandbox_id(number))
            seen += result.ips
        assert len(set(seen)) == 4
        await lab.restart(set())  # it goes on where it was
        _, result = await lab.pod(5)
        assert result.ips[0] not in seen


@in_a_node
async def test_a_restart_keeps_live_pods_and_releases_the_others() -> None:
    async with Lab() as lab:
        outside = lab.outside()
        pod, result = await lab.pod(1, PORT)
        dead, _ = await lab.pod(2, PortMapping(8082, 80))
        pod.tcp_serve(80)
        await lab.restart({sandbox_id(1)})
        assert lab.result(sandbox_id(1)) == replace(result, stages=())
        assert lab.result(sandbox_id(2)) is None
        assert outside.tcp_ask("192.0.2.1", 8080) == "192.0.2.2"
        assert pod.ping(GATEWAY4)
        assert "eth0" not in dead.run("ip link")
        assert len(nft_elements()) == 4  # two families, a port and a forward each


@in_a_node
async def test_what_somebody_deleted_is_made_again() -> None:
    async with Lab() as lab:
        outside = lab.outside()
        pod, _ = await lab.pod(1, PORT)
        pod.tcp_serve(80)
        run("nft", "flush", "ruleset")
        other, _ = await lab.pod(2, PortMapping(8082, 80))  # finds no table
        other.tcp_serve(80)
        for port in (8080, 8082):
            assert outside.tcp_ask("192.0.2.1", port) == "192.0.2.2"
        run("nft", "flush", "ruleset")
        lab.network.status()  # kubelet asks every few seconds
        await lab.network.collect({sandbox_id(1), sandbox_id(2)})
        assert outside.tcp_ask("192.0.2.1", 8080) == "192.0.2.2"
        run("ip", "link", "del", BRIDGE)
        third, _ = await lab.pod(3)
        assert third.ping(GATEWAY4)


@in_a_node
async def test_collect_releases_the_dead_and_strays_and_spares_the_live() -> None:
    async with Lab() as lab:
        live, _ = await lab.pod(1, PORT)
        await lab.pod(2, PortMapping(8082, 80))
        run("ip", "link", "add", "pw00", "type", "veth", "peer", "name", "x")
        run("ip", "link", "set", "pw00", "master", BRIDGE)
        run("ip", "link", "add", "mine", "type", "veth", "peer", "name", "y")
        run("ip", "link", "set", "mine", "master", BRIDGE)
        assert await lab.network.collect({sandbox_id(1)}) == (sandbox_id(2),)
        names = {link["ifname"] for link in ip("link show")}
        assert "pw00" not in names
        assert {"mine", "pw" + sandbox_id(1)[:12]} <= names
        assert live.ping(GATEWAY4)


@in_a_node
async def test_what_is_being_attached_is_no_leftover() -> None:
    async with Lab() as lab:
        guest = lab.guest()
        attaching = asyncio.ensure_future(lab.attach(guest, 1))
        await asyncio.sleep(0)  # it has been handed to the worker
        collected, _ = await asyncio.gather(lab.network.collect(()), attaching)
        assert collected == ()
        assert guest.ping(GATEWAY4)


@in_a_node
async def test_a_cancelled_attach_can_be_detached_and_leaks_no_descriptor() -> None:
    async with Lab() as lab:
        guests = [lab.guest() for _ in range(5)]
        before = len(os.listdir("/proc/self/fd"))
        calls = [asyncio.ensure_future(lab.attach(guest, n)) for n, guest in enumerate(guests, 1)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for number in range(1, 6):
            await lab.network.detach(sandbox_id(number))
        await lab.network.collect(())
        assert not leftovers(lab)
        assert len(os.listdir("/proc/self/fd")) == before


@in_a_node
async def test_a_node_that_is_not_fit_says_why_and_is_tried_again() -> None:
    lab = Lab(V4)
    run("ip", "link", "add", BRIDGE, "type", "veth", "peer", "name", "x")
    await lab.network.start(())
    status = lab.network.status()
    assert (status.ready, status.reason) == (False, "NetworkPluginNotReady")
    assert f"interface {BRIDGE} exists and is no bridge but veth" in status.message
    guest = lab.guest()
    with pytest.raises(NetworkNotReady, match="no bridge"):
        await lab.attach(guest, 1)
    run("ip", "link", "del", BRIDGE)
    run("ip", "link", "add", "x", "type", "veth", "peer", "name", "y")
    run("ip", "addr", "add", "10.87.5.1/24", "dev", "x")
    run("ip", "link", "set", "x", "up")
    with pytest.raises(NetworkNotReady, match=r"10\.87\.5\.0/24 is routed to x"):
        await lab.attach(guest, 1)
    run("ip", "link", "del", "x")
    await lab.attach(guest, 1)
    lab.network.status()
    await lab.network.collect({sandbox_id(1)})
    assert lab.network.status().ready
    async with lab:
        pass


@in_a_node
async def test_switched_off_it_attaches_nobody_but_still_releases() -> None:
    async with Lab() as lab:
        pod, _ = await lab.pod(1, PORT)
        await lab.restart({sandbox_id(1)}, enabled=False, subnets=())
        assert lab.result(sandbox_id(1)) is not None
        assert "cni plugin not initialized" in lab.network.status().message
        with pytest.raises(NetworkNotReady, match="built-in network is off"):
            await lab.attach(lab.guest(), 2)
        pod.close()
        await lab.network.detach(sandbox_id(1))
        await lab.network.collect(())
        assert not leftovers(lab)


@in_a_node
async def test_pods_of_a_renamed_network_can_still_leave_it() -> None:
    async with Lab() as lab:
        pod, _ = await lab.pod(1, PORT)
        await lab.restart({sandbox_id(1)}, bridge="pwother", subnets=("10.99.0.0/24",))
        await lab.pod(2)
        await lab.network.detach(sandbox_id(1))
        pod.close()
        assert not nft_elements()
        assert not (lab.state / "ipam" / BRIDGE / "10.87.0.2").exists()


@in_a_node
async def test_a_second_loop_of_life_starts_from_what_the_first_left() -> None:
    async with Lab() as lab:
        guests: list[Guest] = [lab.guest() for _ in range(2)]
        await lab.attach(guests[0], 1)
        second = PodNetwork(lab.settings)  # the first was killed: it never closed
        await second.start({sandbox_id(1)})
        result = await second.attach(attach(guests[1], 2))
        assert result.ips[0] == "10.87.0.3"
        await second.close()
