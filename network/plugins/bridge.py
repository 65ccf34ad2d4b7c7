"""The bridge on which pods sit, and the veth pair that leads each of them to it.

Every pod's near end is called `pw` and the beginning of its sandbox id, and has an alias that says
which pod it is. An end that is to go is moved to the group DOOMED; `sweep` deletes that group at
once. Deleting one link costs as much as deleting thirty (RCU: 25 to 30 ms), and most need no
deleting at all: they go when the pod's namespace goes.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Collection
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from network.config import Address, Network, gateway_of
from network.errors import NetworkNotReady
from network.netlink import route
from network.netlink.channel import Channel
from network.netlink.linkwatch import Linkwatch
from network.netlink.wire import Request

DOOMED = 0x70775244  # an interface group nobody else uses

_PREFIX = "pw"
_ID_LENGTH = 12  # as people abbreviate ids; with the prefix it fits into an interface's name
_OURS = re.compile(rf"{_PREFIX}[A-Za-z0-9_.-]+\Z")
_DEFAULT_MTU = 1500
_SYSCTL = Path("/proc/sys/net")
_IPV6 = _SYSCTL / "ipv6"  # not there: the kernel was started without IPv6


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that is there. index: the interface's; mtu: of its pods' interfaces, too."""

    name: str
    index: int
    mtu: int


@dataclass(frozen=True, slots=True)
class Port:
    """A pod's way onto the bridge. addresses and networks belong together, one of a family."""

    host_interface: str
    interface: str
    mac: bytes
    addresses: tuple[Address, ...]
    networks: tuple[Network, ...]
    alias: str


def ensure(channel: Channel, name: str, networks: tuple[Network, ...], mtu: int) -> Bridge:
    """Makes the bridge, or what an existing one lacks. Idempotent.

    mtu 0: as the interface of the default route. Raises NetworkNotReady where the node is not fit,
    OSError where the kernel refuses.
    """
    links = [route.parse_link(reply) for reply in channel.dump(route.get_links())]
    mtu = mtu or _node_mtu(channel, links)
    link = next((link for link in links if link.name == name), None)
    if link is None:
        channel.transact([route.create_bridge(name, mac_of(gateway_of(networks[0])), mtu)])
        link = route.parse_link(channel.ask(route.get_link(name)))
    if link.kind != "bridge":
        raise NetworkNotReady(
            f"interface {name} exists and is no bridge but {link.kind or 'a device'};"
            " give [network] bridge another name"
        )
    _refuse_foreign_routes(channel, link, links, networks)
    _prepare_sysctls(name, networks)
    requests = [] if link.mtu == mtu else [route.set_mtu(link.index, mtu, name)]
    requests.append(route.set_up(link.index, name))
    requests += [
        route.add_address(link.index, gateway_of(network), network.prefixlen)
        for network in networks
    ]
    channel.transact(requests)
    return Bridge(name, link.index, mtu)


def present(channel: Channel, bridge: Bridge) -> bool:
    """Whether the bridge is still the one that was made."""
    try:
        link = route.parse_link(channel.ask(route.get_link(bridge.name)))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False
    return link.index == bridge.index and link.up


def add_veth(channel: Channel, bridge: Bridge, port: Port, netns_fd: int) -> None:
    """The pair, straight into the pod's namespace. What failed half-way is for `delete`."""
    veth = route.Veth(
        name=port.host_interface,
        bridge_index=bridge.index,
        peer_name=port.interface,
        peer_mac=port.mac,
        netns_fd=netns_fd,
        mtu=bridge.mtu,
        alias=port.alias,
        ipv6=_IPV6.is_dir(),
    )
    channel.transact(route.create_veth(veth))


def configure_pod(pod: Channel, port: Port, *more: Request) -> None:
    """The pod's end: up, addresses, default routes; with `more` in the same batch."""
    index = route.parse_link(pod.ask(route.get_link(port.interface))).index
    requests = [*more, route.set_up(index, port.interface)]
    for address, network in zip(port.addresses, port.networks, strict=True):
        requests.append(route.add_address(index, address, network.prefixlen))
    for network in port.networks:
        requests.append(route.add_default_route(index, gateway_of(network)))
    try:
        pod.transact(requests)
    except PermissionError as error:  # EACCES, which kernels before 6.3 don't explain
        hint = "is net.ipv6.conf.all.disable_ipv6 (or default, or eth0) 1 in the pod?"
        raise PermissionError(error.errno, f"{error.strerror}; {hint}") from error


def settle(linkwatch: Linkwatch, bridge: Bridge, port: Port) -> None:
    """Returns when the node's end carries packets. So does the bridge: it has a carrier only
    since its first port has one."""
    linkwatch.sync(port.host_interface)
    linkwatch.sync(bridge.name)


def listening(pod: Channel) -> AbstractContextManager[None]:
    """Around `configure_pod` and `settle_pod`."""
    return pod.listen(route.GROUP_IPV6_ROUTE)


def settle_pod(pod: Channel, port: Port) -> None:
    """Returns when the pod takes packets for its addresses.

    The kernel makes an IPv6 address work in a worker of its own (addrconf_dad_work), also without
    duplicate address detection. Until then the pod lets the answer to its first neighbour
    solicitation fall, and asks again after a second.
    """
    for address in port.addresses:
        if address.version == 6:
            pod.until(partial(route.takes_packets_for, address))


def delete(channel: Channel, host_interface: str) -> None:
    """Dooms a pod's near end; one that is gone already is fine."""
    _unless_absent(channel, route.set_group(host_interface, DOOMED))


def sweep(channel: Channel) -> None:
    """Deletes every doomed interface that is still there; when it returns they are gone."""
    _unless_absent(channel, route.delete_group(DOOMED))


def strays(channel: Channel, bridge: Bridge, known: Collection[str]) -> tuple[str, ...]:
    """Ports of this bridge that are ours by name and that nobody knows."""
    links = [route.parse_link(reply) for reply in channel.dump(route.get_links())]
    return tuple(
        link.name
        for link in links
        if link.master == bridge.index
        and link.kind == "veth"
        and link.group != DOOMED
        and _OURS.match(link.name)
        and link.name not in known
    )


def host_interface_of(sandbox_id: str) -> str:
    """The near end's name."""
    return _PREFIX + sandbox_id[:_ID_LENGTH]


def mac_of(address: Address) -> bytes:
    """A locally administered MAC made of an address.

    A pod that gets a used address so gets its MAC, too, and no neighbour's cache is wrong.
    """
    tail = address.packed if address.version == 4 else hashlib.sha256(address.packed).digest()[:4]
    return b"\x0a\x58" + tail


def _unless_absent(channel: Channel, request: Request) -> None:
    """Sends it; no such device is fine."""
    try:
        channel.transact([request])
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _node_mtu(channel: Channel, links: list[route.Link]) -> int:
    for version in (4, 6):
        for reply in channel.dump(route.get_routes(version)):
            found = route.parse_route(reply)
            if found and found.network.prefixlen == 0:
                return next((link.mtu for link in links if link.index == found.index), _DEFAULT_MTU)
    return _DEFAULT_MTU


def _refuse_foreign_routes(
    channel: Channel, bridge: route.Link, links: list[route.Link], networks: tuple[Network, ...]
) -> None:
    """A subnet that another interface has already would take its packets or lose its own."""
    names = {link.index: link.name for link in links}
    for network in networks:
        for reply in channel.dump(route.get_routes(network.version)):
            found = route.parse_route(reply)
            if found is None or found.index == bridge.index:
                continue
            low, high = int(found.network[0]), int(found.network[-1])
            if int(network[0]) <= low and high <= int(network[-1]):
                owner = names.get(found.index, "another interface")
                raise NetworkNotReady(
                    f"subnet {network} is in use: {found.network} is routed to {owner};"
                    " choose other [network] subnets"
                )


def _prepare_sysctls(name: str, networks: tuple[Network, ...]) -> None:
    for network in networks:
        if network.version == 4:
            _set_sysctl("ipv4/ip_forward", "1")
            _set_sysctl(f"ipv4/conf/{name}/route_localnet", "1")  # 127.0.0.1:HOST_PORT
        else:
            if not _IPV6.is_dir():
                raise NetworkNotReady(
                    f"subnet {network} needs IPv6, which this kernel was started without;"
                    " take it out of [network] subnets"
                )
            _set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0")
            _set_sysctl(f"ipv6/conf/{name}/accept_ra", "0")  # pods must not configure the node
            # The node asks for a pod's MAC from the bridge's link-local address, and can't while
            # that is being probed for duplicates: two seconds of silence for the first pod.
            _set_sysctl(f"ipv6/conf/{name}/accept_dad", "0")
            _forward_ipv6(name)


def _forward_ipv6(bridge: str) -> None:
    """Switches forwarding on and keeps what router advertisements gave to the node.

    A node that forwards ignores them, and drops the default route that it had from them, on each
    interface whose accept_ra is not 2 (net/ipv6/addrconf.c).
    """
    if (_SYSCTL / "ipv6/conf/all/forwarding").read_text().strip() == "1":
        return
    for directory in (_SYSCTL / "ipv6/conf").iterdir():
        if directory.name in ("all", "default", bridge):
            continue
        with suppress(FileNotFoundError):  # an interface that has just gone
            if (directory / "accept_ra").read_text().strip() == "1":
                (directory / "accept_ra").write_text("2")
    _set_sysctl("ipv6/conf/all/forwarding", "1")


def _set_sysctl(name: str, value: str) -> None:
    path = _SYSCTL / name
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise NetworkNotReady(f"{path} can't be set to {value}: {error.strerror}") from error
