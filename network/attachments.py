"""Takes pods onto the network and off it again, in the right order. Synchronous, for one thread.

attach: lease, record, veth pair, the pod's end, carrier, host ports, UDP, record.
detach: record, host ports, UDP, veth, lease, record. Every step is idempotent; what is gone
already is fine. An address is never free while a host port leads to it.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from network.config import Address, NetworkSettings, gateway_of
from network.errors import (
    AddressesExhausted,
    HostPortTaken,
    InvalidAttachment,
    KernelRefused,
    NetworkFault,
    NetworkNotReady,
)
from network.journal import Attachment, Journal, Phase
from network.netlink.channel import NETLINK_NETFILTER, NETLINK_ROUTE, Channel
from network.netlink.linkwatch import Linkwatch
from network.nftables.layout import Forward, replace_table, table_of
from network.nftables.transaction import add_elements, batch, get_table
from network.plugins import bridge, host_local, loopback, portmap
from network.result import Attach, Result, Stage, Traffic
from network.traffic import Counters

INTERFACE = "eth0"

_LOG = logging.getLogger(__name__)
_SANDBOX_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


class Timeline:
    """Where the time of one attach goes."""

    def __init__(self) -> None:
        self._stages: list[Stage] = []
        self._name = ""
        self._start = 0

    def enter(self, name: str) -> None:
        """Ends the step under way and begins the next."""
        self.finish()
        self._name, self._start = name, time.monotonic_ns()

    def finish(self) -> tuple[Stage, ...]:
        if self._name:
            duration = time.monotonic_ns() - self._start
            self._stages.append((self._name, self._start, duration))
            self._name = ""
        return tuple(self._stages)


class Attachments:
    """The network's state in the kernel and on disk. All calls come from one thread."""

    def __init__(self, settings: NetworkSettings) -> None:
        self._settings = settings
        self._networks = settings.networks()
        self.journal = Journal(settings.state_dir / "net" / "attachments")
        self._leases = host_local.Leases(self._lease_directory(settings.bridge), self._networks)
        self._bridge: bridge.Bridge | None = None
        self._route = Channel.open(NETLINK_ROUTE)
        self._netfilter = Channel.open(NETLINK_NETFILTER)
        self._linkwatch = Linkwatch()
        self._counters = Counters(self._route)

    def close(self) -> None:
        self._route.close()
        self._netfilter.close()
        self._linkwatch.close()

    def prepare(self) -> None:
        """Makes bridge and tables, or repairs them. Raises NetworkNotReady saying why it can't."""
        if self._bridge and bridge.present(self._route, self._bridge) and self._has_tables():
            return
        self._bridge = None
        settings = self._settings
        try:
            made = bridge.ensure(self._route, settings.bridge, self._networks, settings.mtu)
            self._replace_tables()
        except OSError as error:
            raise NetworkNotReady(f"the kernel refuses {error.strerror or error}") from error
        self._bridge = made

    def attach(self, request: Attach, netns_fd: int, netlink_fd: int) -> Result:
        """Idempotent per sandbox. Undoes itself where it fails. The caller keeps the fds."""
        with _pod_channel(request, netns_fd, netlink_fd) as pod:
            record = self.journal.get(request.sandbox_id)
            if record and record.phase == Phase.ADDED:
                return record.result()
            try:
                return self._attach(request, netns_fd, pod)
            except OSError as error:
                what = (
                    f"attaching pod {request.namespace}/{request.name} to {self._settings.bridge}"
                )
                raise KernelRefused(what, error) from error

    def _attach(self, request: Attach, netns_fd: int, pod: Channel) -> Result:
        if self.detach(request.sandbox_id):  # an attempt that neither succeeded nor was undone
            self.sweep()
        self._check(request)
        if self._bridge is None:
            self.prepare()
        timeline = Timeline()
        timeline.enter("lease addresses")
        record = self._record_of(request, self._lease(request.sandbox_id))
        try:
            return self._build(record, netns_fd, pod, timeline)
        except BaseException:
            self._give_up(record)
            raise

    def detach(self, sandbox_id: str) -> bool:
        """Releases what the sandbox has; answers whether it had anything.

        Idempotent. Raises KernelRefused if some of it stays; the record stays with it.
        """
        record = self.journal.get(sandbox_id)
        if record is None:
            return False
        with suppress(OSError):  # a full disk must not keep anything alive
            self.journal.put(replace(record, phase=Phase.DELETING))
        addresses = _addresses(record.ips)
        forwards = portmap.forwards(record.ports, addresses)
        try:
            portmap.delete(self._netfilter, record.bridge, forwards)
            portmap.forget_after(self._netfilter, forwards)
            bridge.delete(self._route, record.host_interface)
            self._leases_of(record.bridge).delete(sandbox_id, addresses)
            self.journal.remove(sandbox_id)
        except OSError as error:
            what = f"detaching pod {record.pod()} from {record.bridge}"
            raise KernelRefused(what, error) from error
        return True

    def collect(self, dead: Collection[str]) -> tuple[str, ...]:
        """Releases what these sandboxes have, and whatever nobody has. Answers the sandboxes."""
        released = []
        for sandbox_id in sorted(dead):
            if self.journal.get(sandbox_id) is None:
                continue
            try:
                self.detach(sandbox_id)
            except NetworkFault as error:
                _LOG.error("sandbox %s stays attached until the next try: %s", sandbox_id, error)
            else:
                released.append(sandbox_id)
        self._drop_orphaned_leases()
        self._doom_strays()
        self.sweep()
        return tuple(released)

    def traffic(self) -> dict[str, dict[str, Traffic]]:
        """By sandbox id and interface, as the pods see it. Raises OSError."""
        return self._counters.read(self.journal)

    def sweep(self) -> None:
        """Deletes doomed veth pairs that are still there."""
        try:
            bridge.sweep(self._route)
        except OSError as error:
            _LOG.warning("interfaces of pods that are gone stay until the next try: %s", error)

    def _check(self, request: Attach) -> None:
        """Refuses what can't be done, before anything is done."""
        if not _SANDBOX_ID.match(request.sandbox_id):
            raise InvalidAttachment("sandbox_id", f"{request.sandbox_id!r} can't be a file's name")
        host_interface = bridge.host_interface_of(request.sandbox_id)
        gateways = [gateway_of(network) for network in self._networks]
        wanted = set(map(portmap.entrance_of, portmap.forwards(request.ports, gateways)))
        for record in self.journal:
            if record.host_interface == host_interface:
                raise InvalidAttachment(
                    "sandbox_id",
                    f"sandbox {record.sandbox_id} begins with the same characters;"
                    f" both would have the interface {host_interface}",
                )
            if wanted and record.ports:
                taken = wanted.intersection(map(portmap.entrance_of, _forwards(record)))
                if taken:
                    port = min(map(str, taken))
                    raise HostPortTaken(port, record.pod(), record.sandbox_id)

    def _lease(self, sandbox_id: str) -> tuple[Address, ...]:
        """Where no address is free, lets go of what nobody has and tries once more."""
        try:
            return self._leases.add(sandbox_id, INTERFACE)
        except AddressesExhausted:
            self._drop_orphaned_leases()
            self.sweep()
            self._leases.end_quarantine()
            return self._leases.add(sandbox_id, INTERFACE)

    def _record_of(self, request: Attach, addresses: tuple[Address, ...]) -> Attachment:
        return Attachment(
            sandbox_id=request.sandbox_id,
            phase=Phase.INTENT,
            bridge=self._settings.bridge,
            host_interface=bridge.host_interface_of(request.sandbox_id),
            interface=INTERFACE,
            mac=bridge.mac_of(addresses[0]).hex(":"),
            ips=tuple(map(str, addresses)),
            gateways=tuple(str(gateway_of(network)) for network in self._networks),
            ports=request.ports,
            name=request.name,
            namespace=request.namespace,
            uid=request.uid,
            netns_path=request.netns_path,
        )

    def _build(self, record: Attachment, netns_fd: int, pod: Channel, timeline: Timeline) -> Result:
        timeline.enter("write the intent")
        self.journal.put(record)
        port = self._port_of(record)
        timeline.enter("make the veth pair")
        made = self._add_veth(port, netns_fd)
        timeline.enter("configure the pod's end")
        with bridge.listening(pod):
            bridge.configure_pod(pod, port, loopback.add())
            timeline.enter("wait for the carrier")
            bridge.settle(self._linkwatch, made, port)
            timeline.enter("wait for the addresses")
            bridge.settle_pod(pod, port)
        forwards = _forwards(record)
        if forwards:
            timeline.enter("open host ports")
            self._open(record, forwards)
            timeline.enter("forget connections")
            portmap.forget_before(self._netfilter, forwards)
        timeline.enter("write the result")
        self.journal.put(replace(record, phase=Phase.ADDED))
        return replace(record.result(), stages=timeline.finish())

    def _port_of(self, record: Attachment) -> bridge.Port:
        return bridge.Port(
            host_interface=record.host_interface,
            interface=record.interface,
            mac=bytes.fromhex(record.mac.replace(":", "")),
            addresses=_addresses(record.ips),
            networks=self._networks,
            alias=f"podwright {record.pod()} {record.sandbox_id}",
        )

    def _add_veth(self, port: bridge.Port, netns_fd: int) -> bridge.Bridge:
        """If it fails for want of the bridge, that is made again."""
        if self._bridge is None:
            raise NetworkNotReady("the bridge is not there")
        try:
            bridge.add_veth(self._route, self._bridge, port, netns_fd)
        except OSError:
            if bridge.present(self._route, self._bridge):
                raise
            self.prepare()
            bridge.add_veth(self._route, self._bridge, port, netns_fd)
        return self._bridge

    def _open(self, record: Attachment, forwards: tuple[Forward, ...]) -> None:
        """If the table is not as the journal says (somebody flushed it), it is made again."""
        try:
            portmap.add(self._netfilter, record.bridge, forwards, record.pod())
        except (FileExistsError, FileNotFoundError):
            self._replace_tables()

    def _give_up(self, record: Attachment) -> None:
        """Undoes an attach. What can't be undone stays in the journal, for detach and collect."""
        try:
            if self.journal.get(record.sandbox_id):
                self.detach(record.sandbox_id)
            else:  # not even the intent could be written
                self._leases.delete(record.sandbox_id, _addresses(record.ips))
        except (NetworkFault, OSError) as error:
            _LOG.error("sandbox %s stays attached until the next try: %s", record.sandbox_id, error)

    def _replace_tables(self) -> None:
        """Both tables anew, with what the journal says, in one transaction."""
        requests = []
        for network in self._networks:
            requests += replace_table(
                self._settings.bridge, network, masquerade=self._settings.masquerade
            )
            table = table_of(self._settings.bridge, network.version)
            for record in self.journal:
                if record.bridge == self._settings.bridge and record.phase != Phase.DELETING:
                    listed = portmap.elements_of(_forwards(record), network.version, record.pod())
                    requests += add_elements(table, listed)
        self._netfilter.commit(batch(requests))

    def _has_tables(self) -> bool:
        try:
            for network in self._networks:
                self._netfilter.ask(get_table(table_of(self._settings.bridge, network.version)))
        except FileNotFoundError:
            return False
        return True

    def _drop_orphaned_leases(self) -> None:
        for address, owner in self._leases.collect(self.journal.ids()).items():
            _LOG.warning("address %s was leased to %r, which is not attached", address, owner)

    def _doom_strays(self) -> None:
        """Pairs on our bridge that no record knows: somebody removed the journal."""
        if self._bridge is None:
            return
        known = {record.host_interface for record in self.journal}
        try:
            for name in bridge.strays(self._route, self._bridge, known):
                _LOG.warning("interface %s belongs to no pod that is attached", name)
                bridge.delete(self._route, name)
        except OSError as error:
            _LOG.warning("interfaces that no pod has stay until the next try: %s", error)

    def _leases_of(self, network: str) -> host_local.Leases:
        """Those of a network that an earlier configuration named can still be released."""
        if network == self._settings.bridge:
            return self._leases
        return host_local.Leases(self._lease_directory(network), ())

    def _lease_directory(self, network: str) -> Path:
        return self._settings.state_dir / "ipam" / network


def _addresses(texts: Collection[str]) -> tuple[Address, ...]:
    return tuple(map(ipaddress.ip_address, texts))


def _forwards(record: Attachment) -> tuple[Forward, ...]:
    return portmap.forwards(record.ports, _addresses(record.ips))


def _pod_channel(request: Attach, netns_fd: int, netlink_fd: int) -> Channel:
    """The socket in the pod's namespace, after a look at whether it is there.

    Were it in the node's, the node's own eth0 would get the pod's address.
    """
    try:
        pod = Channel.adopt(netlink_fd)
    except OSError as error:
        raise InvalidAttachment("netlink_fd", f"not a netlink socket: {error.strerror}") from error
    try:
        home = pod.namespace()
        if home != os.fstat(netns_fd).st_ino or home == os.stat("/proc/thread-self/ns/net").st_ino:
            raise InvalidAttachment(
                "netlink_fd", f"was not opened inside the pod's namespace {request.netns_path}"
            )
    except BaseException:
        pod.close()
        raise
    return pod
