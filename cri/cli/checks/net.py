"""What the built-in network stands on: bridge, veth, nftables; and what usually gets in its way."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cri.cli.checks.finding import Finding, Place, note, ok, warn
from network.netlink.channel import NETLINK_NETFILTER, NETLINK_ROUTE, Channel
from network.netlink.route import Veth, create_bridge, create_veth, get_link, parse_link
from network.netlink.wire import Request
from runtime.linux.namespace import Clone, unshare

GET_GENERATION = 10 << 8 | 16
"""NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN: the cheapest question to nftables."""


def _aside(work: Callable[[], None]) -> OSError | None:
    """Does `work` in a thread with a network namespace of its own, which ends with it."""
    failure: list[OSError] = []

    def enter() -> None:
        try:
            unshare(Clone.NEWNET)
            work()
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return failure[0] if failure else None


def _make_links() -> None:
    own = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    try:
        with Channel.open(NETLINK_ROUTE) as channel:
            mac = bytes.fromhex("0a0000000001")
            channel.transact([create_bridge("probe0", mac, 1500)])
            bridge = parse_link(channel.ask(get_link("probe0")))
            mac = bytes.fromhex("0a0000000002")
            veth = Veth("probe1", bridge.index, "probe2", mac, own, 1500, "doctor")
            channel.transact(create_veth(veth))
    finally:
        os.close(own)


def _ask_nftables() -> None:
    with Channel.open(NETLINK_NETFILTER) as channel:
        channel.ask(Request(GET_GENERATION, bytes(4), what="nftables"))


def links(_place: Place) -> Iterator[Finding]:
    """A bridge with a veth pair can be made."""
    if error := _aside(_make_links):
        remedy = "modprobe bridge veth"
        yield warn("bridge", f"a bridge with a veth pair can't be made: {error}", remedy)
    else:
        yield ok("bridge", "bridges and veth pairs can be made")


def nftables(_place: Place) -> Iterator[Finding]:
    """nftables answers: masquerade and host ports are made with it."""
    if error := _aside(_ask_nftables):
        remedy = "modprobe nf_tables; without it there is no masquerade and no host port"
        yield warn("nftables", f"does not answer: {error}", remedy)
    else:
        yield ok("nftables", "answers")


def network(place: Place) -> Iterator[Finding]:
    """Pods get a network at all."""
    conf_dir = Path(place.config.network.cni_conf_dir)
    if place.config.network.enabled:
        yield ok("network", f"built-in, {', '.join(place.config.network.subnets)}")
        return
    found = sorted(p.name for p in conf_dir.glob("*.conf*")) if conf_dir.is_dir() else []
    yield warn(
        "network",
        "the built-in network is off"
        + (f", and {conf_dir} ({', '.join(found)}) is not used yet" if found else ""),
        "[network] enabled = true in the configuration",
    )


def resolver(place: Place) -> Iterator[Finding]:
    """The node's resolver can be reached from a pod, which gets a copy of its resolv.conf."""
    path = place.etc / "resolv.conf"
    text = path.read_text(errors="replace") if path.exists() else ""
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    local = [server for server in servers if server.startswith("127.") or server == "::1"]
    if servers and len(local) == len(servers):
        yield note(
            "dns",
            f"{path} names only {', '.join(local)}, which pods can't reach",
            "kubelet: resolvConf: /run/systemd/resolve/resolv.conf; without kubelet: dnsConfig",
        )
    elif not servers:
        yield note("dns", f"{path} names no server", "give pods a dnsConfig")
    else:
        yield ok("dns", ", ".join(servers))


CHECKS = (network, links, nftables, resolver)
