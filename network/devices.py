"""Interfaces of the node that pods have while they live: moved in, and moved back.

    STATE/net/devices/<sandbox id>.json      {"eth7": {"name": "net1", "addresses": […], …}}

By the name on the node: see Device. Written before an interface moves, so that its pod's end finds
it. It keeps its lasting addresses, and is up in the pod; what becomes of it in there is the pod's
own affair: whoever may, renames it, and puts another in its place. So it is not by its name that it
is known when it is to go back, but by what nobody can make up. Where nobody can move it back, the
pod's monitor having been killed say, the kernel does when the namespace ends, under the name that
it has then; it removes what is not hardware. Source: runtime-spec config-linux.md, "Network
Devices".
"""

from __future__ import annotations

import errno
import ipaddress
import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from network.errors import DeviceUnavailable, KernelRefused
from network.netlink import route
from network.netlink.channel import NETLINK_ROUTE, Channel

_LOG = logging.getLogger(__name__)
_MOST_NAME = 15  # IFNAMSIZ - 1
_LOOPBACK = "lo"


@dataclass(frozen=True, slots=True)
class Device:
    """One that a pod has.

    name: in there, at first; mac, addresses ("10.1.0.7/24"), up: what it had and was on the node;
    information: see `Link`, hexadecimal; index: in the pod, 0 until it is there as it is to be.
    """

    name: str
    mac: str
    information: str
    addresses: tuple[str, ...] = ()
    up: bool = False
    index: int = 0

    def found(self, pod: Channel, host: str) -> route.Link | None:
        """Where it is in a pod, under whatever name; None: it is not there.

        Hardware has no kind, and none can be made: with the index that makes it unique. Another
        that has the same kind and settings, in its place, would be as good.
        """
        for reply in pod.dump(route.get_links()):
            link = route.parse_link(reply)
            if self.index:
                same = link.index == self.index
            else:  # on its way: a move that failed has left it under either name
                same = link.mac == self.mac and link.name in (self.name, host)
            if same and link.information.hex() == self.information:
                return link
        return None


def check(wanted: Mapping[str, str]) -> str:
    """Why names on the node (keys) and in the pod can't be; "": they can."""
    for host, name in wanted.items():
        for one in (host, name):
            if not 0 < len(one.encode()) <= _MOST_NAME or one in (".", "..", _LOOPBACK):
                return f"{one!r} can't be the name of an interface that moves"
            if not one.isprintable() or any(letter in "/: %" for letter in one):
                return f"{one!r} can't be the name of an interface"
    if len(set(wanted.values())) < len(wanted):
        return "two of them would have one name"
    return ""


class Devices:
    """For one thread; `of` may be called by any."""

    def __init__(self, directory: Path, kept: Collection[str]) -> None:
        """kept: interfaces of the node that are ours, and never move."""
        self._directory = directory
        self._kept = kept
        self._records: dict[str, dict[str, Device]] = {}

    def load(self, live: Collection[str]) -> None:
        """Reads what an earlier daemon wrote; forgets pods that are not in `live`."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._directory.iterdir()):
            if path.suffix == ".json" and path.stem in live:
                try:
                    self._records[path.stem] = _decode(path.read_bytes())
                except (ValueError, KeyError, TypeError) as error:
                    _LOG.error("record of network devices %s can't be read: %r", path, error)
            else:
                path.unlink()

    def of(self, sandbox_id: str) -> bool:
        """Whether the pod has any."""
        return sandbox_id in self._records

    def take(self, sandbox_id: str, wanted: Mapping[str, str], netlink_fd: int) -> None:
        """Moves interfaces into a pod, all or none; what it has already by that name stays there.

        wanted: name on the node -> name in the pod; netlink_fd: a route socket of the pod's, the
        caller's. Raises DeviceUnavailable, KernelRefused, OSError.
        """
        with Channel.open(NETLINK_ROUTE) as node, Channel.adopt(netlink_fd) as pod:
            moved: list[str] = []
            try:
                for host, name in wanted.items():
                    if not self._has(sandbox_id, host, name, pod):
                        self._take_one(sandbox_id, (host, name), node, pod)
                        moved.append(host)
            except BaseException:
                self._give_back(sandbox_id, moved, node, pod)
                raise

    def give_back(self, sandbox_id: str, netlink_fd: int) -> None:
        """At a pod's end. What can't be moved is logged, and left to the kernel."""
        if self.of(sandbox_id):
            with Channel.open(NETLINK_ROUTE) as node, Channel.adopt(netlink_fd) as pod:
                self._give_back(sandbox_id, list(self._records[sandbox_id]), node, pod)
        self.forget(sandbox_id)

    def forget(self, sandbox_id: str) -> None:
        """The pod's network is gone, and with it what was in there."""
        if self._records.pop(sandbox_id, None) is not None:
            self._path(sandbox_id).unlink(missing_ok=True)

    def _has(self, sandbox_id: str, host: str, name: str, pod: Channel) -> bool:
        """An earlier container of the pod had it moved. A record alone means nothing: the daemon
        may have died before it moved, or after that."""
        known = self._records.get(sandbox_id, {}).get(host)
        link = known.found(pod, host) if known else None
        if known is None or link is None:
            return False
        if known.name != name:
            raise DeviceUnavailable(host, f"the pod has it already, as {known.name}")
        if not known.index:
            self._settle(sandbox_id, host, link, pod)
        return True

    def _take_one(
        self, sandbox_id: str, names: tuple[str, str], node: Channel, pod: Channel
    ) -> None:
        host, name = names
        link = _find(node, host)
        if link is None:
            raise DeviceUnavailable(host, "the node has no such interface")
        if host in self._kept or link.index == route.LOOPBACK_INDEX:
            raise DeviceUnavailable(host, "the pods' own network needs it")
        if _find(pod, name) is not None:
            raise DeviceUnavailable(host, f"the pod has an interface {name} already")
        addresses = tuple(map(str, _addresses(node, link.index)))
        device = Device(name, link.mac, link.information.hex(), addresses, link.up)
        self._put(sandbox_id, {**self._records.get(sandbox_id, {}), host: device})
        try:
            _move(node, pod, link, name)
            there = device.found(pod, host)
            if there is None:
                raise OSError(errno.ENODEV, "it is not there, or is not what it was")
            self._settle(sandbox_id, host, there, pod)
        except OSError as error:
            self._give_back(sandbox_id, [host], node, pod)
            raise KernelRefused(f"moving interface {host} into the pod as {name}", error) from error

    def _settle(self, sandbox_id: str, host: str, link: route.Link, pod: Channel) -> None:
        """It is there: gets its addresses, and is known by its place from now on."""
        device = self._records[sandbox_id][host]
        _dress(pod, link, device.addresses, up=True)
        settled = replace(device, index=link.index)
        self._put(sandbox_id, {**self._records[sandbox_id], host: settled})

    def _give_back(
        self, sandbox_id: str, hosts: Iterable[str], node: Channel, pod: Channel
    ) -> None:
        left = dict(self._records.get(sandbox_id, {}))
        for host in hosts:
            device = left.pop(host)
            try:
                there = device.found(pod, host)
                if there is not None:
                    _move(pod, node, there, host)
                back = _find(node, host)
                if back is not None and there is not None:
                    _dress(node, back, device.addresses, up=device.up)
            except OSError as error:
                _LOG.warning("interface %s is not moved back as %s: %s", device.name, host, error)
        self._put(sandbox_id, left) if left else self.forget(sandbox_id)

    def _put(self, sandbox_id: str, devices: dict[str, Device]) -> None:
        path = self._path(sandbox_id)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps({host: asdict(one) for host, one in devices.items()}))
        draft.rename(path)
        self._records[sandbox_id] = devices

    def _path(self, sandbox_id: str) -> Path:
        return self._directory / f"{sandbox_id}.json"


def _decode(data: bytes) -> dict[str, Device]:
    said = json.loads(data)
    return {
        host: Device(**{**fields, "addresses": tuple(fields["addresses"])})
        for host, fields in said.items()
    }


def _find(channel: Channel, name: str) -> route.Link | None:
    try:
        return route.parse_link(channel.ask(route.get_link(name)))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def _addresses(channel: Channel, index: int) -> list[route.Interface]:
    replies = channel.dump(route.get_addresses())
    found = (route.parse_lasting_address(reply) for reply in replies)
    return [address for owner, address in filter(None, found) if owner == index]


def _move(source: Channel, target: Channel, link: route.Link, name: str) -> None:
    """Raises OSError; the interface may be in either then, and have either name."""
    fd = target.namespace_fd()
    try:
        source.transact([route.move_link(link.index, name, fd)])
    finally:
        os.close(fd)


def _dress(channel: Channel, link: route.Link, addresses: Iterable[str], *, up: bool) -> None:
    requests = []
    for text in addresses:
        given = ipaddress.ip_interface(text)
        requests.append(route.add_address(link.index, given.ip, given.network.prefixlen))
    if up:
        requests.append(route.set_up(link.index, f"interface {link.name}"))
    if requests:
        channel.transact(requests)
