"""Ports of the node that lead into pods: elements of the network's nftables maps.

A key can be in a map once. Who has it is known from the attachments' journal, where each pod's
ports are written before they come into force: the kernel deletes by key and would as well delete
another pod's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from network import conntrack
from network.config import Address
from network.errors import InvalidAttachment
from network.netlink.channel import Channel
from network.nftables.layout import PROTOCOLS, Forward, elements, table_of
from network.nftables.transaction import Element, add_elements, batch, delete_elements
from network.result import PortMapping

_PORTS = range(1, 65536)


@dataclass(frozen=True, slots=True)
class Entrance:
    """A port of the node in one family; two pods can't have the same one. address None: all."""

    version: int
    protocol: str
    port: int
    address: Address | None

    def __str__(self) -> str:
        if self.address is None:
            return f"{self.port}/{self.protocol}"
        host = f"[{self.address}]" if self.version == 6 else str(self.address)
        return f"{host}:{self.port}/{self.protocol}"


def forwards(ports: Sequence[PortMapping], addresses: Sequence[Address]) -> tuple[Forward, ...]:
    """What the mappings mean for a pod with these addresses.

    A mapping without host port, or with a host address of a family that the pod doesn't have,
    means nothing. Raises InvalidAttachment naming the field.
    """
    wanted: dict[Entrance, Forward] = {}
    for number, mapping in enumerate(ports):
        if mapping.host_port <= 0:
            continue
        host = _checked(mapping, f"ports[{number}]")
        for address in addresses:
            if host is not None and host.version != address.version:
                continue
            bound = None if host is None or host.is_unspecified else host
            entrance = Entrance(address.version, mapping.protocol, mapping.host_port, bound)
            forward = Forward(
                mapping.protocol, mapping.host_port, bound, address, mapping.container_port
            )
            if wanted.setdefault(entrance, forward) != forward:
                raise InvalidAttachment(
                    f"ports[{number}].host_port", f"{entrance} is mapped to two container ports"
                )
    return tuple(wanted.values())


def entrance_of(forward: Forward) -> Entrance:
    return Entrance(
        forward.address.version, forward.protocol, forward.host_port, forward.host_address
    )


def elements_of(wanted: Sequence[Forward], version: int, comment: str) -> list[Element]:
    """The elements of one family, each once."""
    unique: dict[tuple[str, bytes], Element] = {}
    for forward in wanted:
        if forward.address.version == version:
            for element in elements(forward, comment):
                unique[element.set_name, element.key] = element
    return list(unique.values())


def add(channel: Channel, bridge: str, wanted: Sequence[Forward], comment: str) -> None:
    """Opens the ports. See `forget_before`, too.

    Raises FileExistsError if the table has one of them, FileNotFoundError if there is no table.
    """
    requests = []
    for version in _versions(wanted):
        listed = elements_of(wanted, version, comment)
        requests += add_elements(table_of(bridge, version), listed)
    if requests:
        channel.commit(batch(requests))


def forget_before(channel: Channel, wanted: Sequence[Forward]) -> None:
    """Forgets UDP exchanges that were sent to these ports before they led into the pod."""
    for address, ports in _udp_ports(wanted).items():
        conntrack.forget_udp_to(channel, address.version, ports)


def delete(channel: Channel, bridge: str, wanted: Sequence[Forward]) -> None:
    """Closes the ports; what is not in the table, and a table that is not there, is fine."""
    for version in _versions(wanted):
        table = table_of(bridge, version)
        listed = elements_of(wanted, version, "")
        try:
            channel.commit(batch(delete_elements(table, listed)))
        except FileNotFoundError:  # all or nothing: so each for itself
            for element in listed:
                with suppress(FileNotFoundError):
                    channel.commit(batch(delete_elements(table, [element])))


def forget_after(channel: Channel, wanted: Sequence[Forward]) -> None:
    """Forgets UDP exchanges with a pod whose ports are closed."""
    for address, ports in _udp_ports(wanted).items():
        conntrack.forget_udp_answered_by(channel, address, ports)


def _udp_ports(wanted: Sequence[Forward]) -> Mapping[Address, set[int]]:
    ports: dict[Address, set[int]] = {}
    for item in wanted:
        if item.protocol == "udp":
            ports.setdefault(item.address, set()).add(item.host_port)
    return ports


def _checked(mapping: PortMapping, where: str) -> Address | None:
    if mapping.host_port not in _PORTS:
        raise InvalidAttachment(f"{where}.host_port", f"{mapping.host_port} is not in 1..65535")
    if mapping.container_port not in _PORTS:
        raise InvalidAttachment(
            f"{where}.container_port", f"{mapping.container_port} is not in 1..65535"
        )
    if mapping.protocol not in PROTOCOLS:
        raise InvalidAttachment(
            f"{where}.protocol", f"{mapping.protocol!r} is none of {', '.join(sorted(PROTOCOLS))}"
        )
    if not mapping.host_ip:
        return None
    try:
        return ipaddress.ip_address(mapping.host_ip)
    except ValueError:
        raise InvalidAttachment(
            f"{where}.host_ip", f"{mapping.host_ip!r} is no IP address"
        ) from None


def _versions(wanted: Sequence[Forward]) -> list[int]:
    return sorted({forward.address.version for forward in wanted})
