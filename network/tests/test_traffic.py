"""Counters of pods on the real kernel, beside what the pods themselves see."""

from __future__ import annotations

import dataclasses
import json

from network.tests.lab import Guest, Lab, in_a_node, sandbox_id


def inside(guest: Guest) -> dict[str, int]:
    """What the pod's own eth0 has counted."""
    (link,) = json.loads(guest.run("ip -j -s link show dev eth0"))
    counted = link["stats64"]
    return {
        f"{way}_{what}": counted[way][what]
        for way in ("rx", "tx")
        for what in ("bytes", "packets", "errors", "dropped")
    }


@in_a_node
async def test_the_node_counts_what_the_pod_counts() -> None:
    async with Lab() as lab:
        first, _ = await lab.pod(1)
        _, other = await lab.pod(2)
        before = (await lab.network.traffic())[sandbox_id(1)]["eth0"]
        assert first.ping(other.ips[0])
        assert first.ping(other.ips[1])
        least = inside(first)
        found = await lab.network.traffic()
        most = inside(first)  # IPv6 says something of its own accord now and then
        assert set(found) == {sandbox_id(1), sandbox_id(2)}
        assert set(found[sandbox_id(1)]) == {"eth0"}
        counted = dataclasses.asdict(found[sandbox_id(1)]["eth0"])
        assert all(least[name] <= counted[name] <= most[name] for name in least), (least, counted)
        after = found[sandbox_id(1)]["eth0"]
        assert after.tx_packets >= before.tx_packets + 2
        assert after.rx_packets >= before.rx_packets + 2


@in_a_node
async def test_more_goes_one_way_than_the_other_and_is_told_apart() -> None:
    async with Lab() as lab:
        first, result = await lab.pod(1)
        before = (await lab.network.traffic())[sandbox_id(1)]["eth0"]
        first.udp_send(result.gateways[0], 9, 1000, 50)
        after = (await lab.network.traffic())[sandbox_id(1)]["eth0"]
        assert after.tx_bytes - before.tx_bytes >= 50_000
        assert after.rx_bytes - before.rx_bytes < 50_000


@in_a_node
async def test_pods_are_told_apart_and_those_that_left_are_left_out() -> None:
    async with Lab() as lab:
        assert await lab.network.traffic() == {}
        first, _ = await lab.pod(1)
        await lab.pod(2)
        assert set(await lab.network.traffic()) == {sandbox_id(1), sandbox_id(2)}
        await lab.network.detach(sandbox_id(2))
        assert set(await lab.network.traffic()) == {sandbox_id(1)}
        first.close()  # the namespace goes, and the pair with it; the record is still there
        await lab.network.collect([sandbox_id(1)])
        assert set(await lab.network.traffic()) <= {sandbox_id(1)}


@in_a_node
async def test_a_restarted_daemon_goes_on_counting() -> None:
    async with Lab() as lab:
        first, result = await lab.pod(1)
        assert first.ping(result.gateways[0])
        before = (await lab.network.traffic())[sandbox_id(1)]["eth0"]
        await lab.restart({sandbox_id(1)})
        after = (await lab.network.traffic())[sandbox_id(1)]["eth0"]
        assert after.tx_bytes >= before.tx_bytes > 0
