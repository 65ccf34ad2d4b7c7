"""Pods on the real kernel: what they reach, and what reaches them."""

from __future__ import annotations

from network.tests.lab import GATEWAY4, GATEWAY6, Lab, in_a_node


@in_a_node
async def test_pods_reach_each_other_and_their_gateway_by_both_families() -> None:
    async with Lab() as lab:
        first, result = await lab.pod(1)
        second, other = await lab.pod(2)
        assert result.ips == ("10.87.0.2", "fd00:87::2")
        assert result.gateways == (GATEWAY4, GATEWAY6)
        for address in (*other.ips, *other.gateways):
            assert first.ping(address), address
        for address in result.ips:
            assert second.ping(address), address
        assert first.ping("127.0.0.1")
        assert first.ping("::1")
