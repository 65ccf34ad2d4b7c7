"""What the network is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

Stage = tuple[str, int, int]
"""A step of an attach: name, start (CLOCK_MONOTONIC, ns), duration (ns)."""


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One port of the node that leads into the pod.

    host_port, container_port: 1..65535. A host_port of 0 or less asks for nothing.
    protocol: tcp, udp or sctp. host_ip: "" for every address of the node, 0.0.0.0 or :: for every
    one of that family, else the one address that it names.
    """

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Attach:
    """A pod that wants into the network. The caller keeps both descriptors and closes them.

    netns_fd: the pod's network namespace; netns_path: where it is pinned, for messages.
    netlink_fd: a NETLINK_ROUTE socket that was opened inside that namespace; nobody else reads it.
    name, namespace, uid: the pod's, for messages and for people who read `nft list` and `ip link`.
    """

    sandbox_id: str
    netns_fd: int
    netns_path: str
    netlink_fd: int
    name: str
    namespace: str
    uid: str
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What a pod has got.

    ips, gateways: IPv4 first, without prefix length. interface, mac: inside the pod.
    host_interface: the other end, on the node. stages: where the time of this attach went; empty
    in a result that was read from the journal.
    """

    ips: tuple[str, ...]
    gateways: tuple[str, ...]
    interface: str
    mac: str
    host_interface: str
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an interface has received and sent since it was made. The order is the kernel's."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0

    def other_end(self) -> Traffic:
        """As the other end of a pair sees it."""
        return Traffic(
            rx_packets=self.tx_packets,
            tx_packets=self.rx_packets,
            rx_bytes=self.tx_bytes,
            tx_bytes=self.rx_bytes,
            rx_errors=self.tx_errors,
            tx_errors=self.rx_errors,
            rx_dropped=self.tx_dropped,
            tx_dropped=self.rx_dropped,
        )


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """The CRI's NetworkReady condition. reason and message are empty when ready."""

    ready: bool
    reason: str = ""
    message: str = ""
