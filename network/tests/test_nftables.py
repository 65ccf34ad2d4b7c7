"""Our tables as `nft` prints them: golden files, and elements that come and go."""

from __future__ import annotations

import errno
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from network.netlink.channel import NETLINK_NETFILTER, Channel
from network.nftables.layout import Forward, elements, replace_table, table_of
from network.nftables.transaction import Element, add_elements, batch, delete_elements, get_table
from network.tests.lab import in_a_node, nft_elements, run

GOLDEN = Path(__file__).with_name("golden")
SUBNETS = {"ip": "10.87.0.0/16", "ip6": "fd00:87::/64"}


def forwards(version: int) -> list[Forward]:
    pod = ip_network(SUBNETS["ip" if version == 4 else "ip6"])[5]
    host = ip_address("192.0.2.1" if version == 4 else "2001:db8::1")
    return [
        Forward("tcp", 8080, None, pod, 80),
        Forward("udp", 53, host, pod, 5353),
        Forward("sctp", 9000, None, pod, 9001),
    ]


def listed(version: int) -> list[Element]:
    return [item for forward in forwards(version) for item in elements(forward, "default/ü")]


@pytest.mark.parametrize("family", ["ip", "ip6"])
@in_a_node
def test_the_table_reads_as_it_is_meant(family: str) -> None:
    network = ip_network(SUBNETS[family])
    table = table_of("pwtest0", network.version)
    with Channel.open(NETLINK_NETFILTER) as channel:
        for _ in range(2):  # the second replaces the first
            requests = replace_table("pwtest0", network, masquerade=True)
            requests += add_elements(table, listed(network.version))
            channel.commit(batch(requests))
    found = run("nft", "list", "table", family, "pwtest0")
    assert found == (GOLDEN / f"{family}.nft").read_text(), found


@in_a_node
def test_elements_come_and_go_all_or_nothing() -> None:
    network = ip_network(SUBNETS["ip"])
    table = table_of("pwtest0", 4)
    first, second, *rest = listed(4)
    with Channel.open(NETLINK_NETFILTER) as channel:
        with pytest.raises(FileNotFoundError):
            channel.ask(get_table(table))
        with pytest.raises(FileNotFoundError, match="nftables table ip pwtest0"):
            channel.commit(batch(add_elements(table, [first])))
        channel.commit(batch(replace_table("pwtest0", network, masquerade=False)))
        assert channel.ask(get_table(table)).body
        channel.commit(batch(add_elements(table, [first, second])))
        before = nft_elements()
        assert len(before) == 2
        with pytest.raises(FileExistsError):
            channel.commit(batch(add_elements(table, [*rest, second])))
        with pytest.raises(FileNotFoundError):
            channel.commit(batch(delete_elements(table, [first, rest[0]])))
        assert nft_elements() == before
        channel.commit(batch(delete_elements(table, [first, second])))
        assert not nft_elements()


@in_a_node
def test_a_thousand_ports_are_one_transaction() -> None:
    network = ip_network(SUBNETS["ip6"])
    table = table_of("pwtest0", 6)
    many = [
        item
        for port in range(1, 3001)
        for item in elements(Forward("tcp", port, None, network[9], port), "x" * 200)
    ]
    with Channel.open(NETLINK_NETFILTER) as channel:
        requests = replace_table("pwtest0", network, masquerade=True)
        channel.commit(batch(requests + add_elements(table, many)))
        assert len(nft_elements()) == 6000
        channel.commit(batch(delete_elements(table, many)))
        assert not nft_elements()


@in_a_node
def test_what_the_kernel_explains_is_in_the_error() -> None:
    with Channel.open(NETLINK_NETFILTER) as channel, pytest.raises(OSError) as caught:  # noqa: PT011
        channel.commit(batch(add_elements(table_of("nowhere", 4), listed(4))))
    assert caught.value.errno == errno.ENOENT
    assert "elements of" in str(caught.value)
