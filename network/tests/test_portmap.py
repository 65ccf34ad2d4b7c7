"""What port mappings mean, before anything of it is in the kernel."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from network.errors import InvalidAttachment
from network.plugins.portmap import elements_of, entrance_of, forwards
from network.result import PortMapping

POD = (ip_address("10.87.0.2"), ip_address("fd00:87::2"))


def entrances(*ports: PortMapping) -> list[str]:
    return [f"{item.address.version} {entrance_of(item)}" for item in forwards(ports, POD)]


def test_a_mapping_without_address_is_for_both_families() -> None:
    assert entrances(PortMapping(8080, 80)) == ["4 8080/tcp", "6 8080/tcp"]


@pytest.mark.parametrize(
    ("host_ip", "expected"),
    [
        ("0.0.0.0", ["4 53/udp"]),
        ("::", ["6 53/udp"]),
        ("192.0.2.1", ["4 192.0.2.1:53/udp"]),
        ("2001:db8::1", ["6 [2001:db8::1]:53/udp"]),
    ],
)
def test_an_address_chooses_its_family(host_ip: str, expected: list[str]) -> None:
    assert entrances(PortMapping(53, 5353, "udp", host_ip)) == expected


def test_a_family_that_the_pod_lacks_means_nothing() -> None:
    assert forwards([PortMapping(53, 53, host_ip="::1")], POD[:1]) == ()


@pytest.mark.parametrize("port", [0, -1])
def test_without_a_host_port_there_is_no_mapping(port: int) -> None:
    assert entrances(PortMapping(port, 80)) == []


def test_the_same_mapping_twice_is_one() -> None:
    assert len(entrances(PortMapping(1, 2), PortMapping(1, 2), PortMapping(1, 2, "udp"))) == 4


def test_one_host_port_can_not_lead_to_two_ports() -> None:
    with pytest.raises(InvalidAttachment, match=r"ports\[1\].host_port: 1/tcp is mapped to two"):
        entrances(PortMapping(1, 2), PortMapping(1, 3))


def test_each_element_comes_once_even_if_two_addresses_lead_to_it() -> None:
    ports = [PortMapping(53, 53, host_ip=host) for host in ("192.0.2.1", "192.0.2.2")]
    found = elements_of(forwards(ports, POD), 4, "")
    assert [item.set_name for item in found] == ["hostipports", "forwards", "hostipports"]
