"""The table of a pod network: what leads host ports into pods and lets pods out. Pure.

One table per family, named after the bridge; made (or replaced) as a whole at start, in one
transaction. Afterwards pods come and go as elements, never as rules: the cost of a packet and of a
pod does not grow with the number of pods. As nft prints it, for IPv4:

    map hostports   { type inet_proto . inet_service : ipv4_addr . inet_service }
    map hostipports { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
    set forwards    { type ipv4_addr . inet_proto . inet_service }     # pod, protocol, host port
    chain dispatch {
        dnat ip to ip daddr . meta l4proto . th dport map @hostipports
        dnat ip to meta l4proto . th dport map @hostports
    }
    chain prerouting  { nat, -100:  fib daddr type local goto dispatch }
    chain output      { nat, -100:  fib daddr type local goto dispatch }
    chain postrouting { nat, 100:
        ct status dnat ip saddr SUBNET ip daddr . meta l4proto . ct original proto-dst @forwards masquerade
        ct status dnat ip saddr 127.0.0.0/8 (the same) masquerade
        ip saddr SUBNET ip daddr != SUBNET ip daddr != 224.0.0.0/4 masquerade
    }
    chain guard       { filter, -300:  iifname BRIDGE ip daddr 127.0.0.0/8 drop }

* A pod that comes back to its own subnet through a host port is masqueraded: the answer would
  otherwise go straight over the bridge, to a client that waits for it from another address. The
  set says for which connections that holds: those of ours, not those of a Service.
* route_localnet, which 127.0.0.1:PORT needs, would also let pods send to the node's loopback:
  `guard` drops that before anything else sees it.
* IPv6 has no route_localnet: what is sent to [::1]:PORT can't leave the node. It is not translated
  (`ip6 daddr != ::1` in output), so that it is refused at once rather than lost.
"""  # noqa: E501 - rules as nft prints them

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from network.config import Address, Network
from network.netlink.wire import Request
from network.nftables import expression as ex
from network.nftables.transaction import (
    Element,
    Family,
    Hook,
    Table,
    Type,
    add_base_chain,
    add_chain,
    add_rule,
    add_set,
    add_table,
    concat,
    delete_table,
)

_DESTINATION_NAT, _SOURCE_NAT, _BEFORE_CONNTRACK = -100, 100, -300  # as nft's dstnat, srcnat, raw
_LOCAL = 2  # RTN_LOCAL
_DNATED = 1 << 5  # IPS_DST_NAT
_INTERFACE_NAME_BYTES = 16
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_LOOPBACK6 = ipaddress.ip_network("::1/128")
_MULTICAST = {4: ipaddress.ip_network("224.0.0.0/4"), 6: ipaddress.ip_network("ff00::/8")}
_SOURCE_OFFSET = {4: 12, 6: 8}
_DESTINATION_OFFSET = {4: 16, 6: 24}

PROTOCOLS = frozenset(_PROTOCOLS)


@dataclass(frozen=True, slots=True)
class Forward:
    """One host port of one pod, in one family. host_address None: every address of the node."""

    protocol: str
    host_port: int
    host_address: Address | None
    address: Address
    container_port: int


def table_of(bridge: str, version: int) -> Table:
    return Table(Family.IPV4 if version == 4 else Family.IPV6, bridge)


def replace_table(bridge: str, network: Network, *, masquerade: bool) -> list[Request]:
    """The whole table without elements; an older one goes away in the same transaction."""
    table = table_of(bridge, network.version)
    comment = "podwright: host ports and masquerading of pods"
    address = Type.IPV4_ADDRESS if network.version == 4 else Type.IPV6_ADDRESS
    port, target = (Type.PROTOCOL, Type.PORT), (address, Type.PORT)
    return [
        add_table(table, comment),  # so that there is one to delete
        delete_table(table),
        add_table(table, comment),
        add_set(table, "hostports", port, target),
        add_set(table, "hostipports", (address, *port), target),
        add_set(table, "forwards", (address, *port)),
        add_chain(table, "dispatch"),
        *_dispatch(table, network.version),
        *_entrances(table, network.version),
        *_postrouting(table, network, masquerade=masquerade),
        *(_guard(table, bridge) if network.version == 4 else ()),
    ]


def elements(forward: Forward, comment: str) -> list[Element]:
    """What a host port puts into the table."""
    protocol = bytes([_PROTOCOLS[forward.protocol]])
    host_port = forward.host_port.to_bytes(2, "big")
    address = forward.address.packed
    target = concat(address, forward.container_port.to_bytes(2, "big"))
    if forward.host_address is None:
        entrance = Element("hostports", concat(protocol, host_port), target, comment)
    else:
        key = concat(forward.host_address.packed, protocol, host_port)
        entrance = Element("hostipports", key, target, comment)
    return [entrance, Element("forwards", concat(address, protocol, host_port), b"", comment)]


def _dispatch(table: Table, version: int) -> list[Request]:
    size = 4 if version == 4 else 16
    behind = ex.FIRST + ex.words(size)  # the register after an address
    port = (ex.Base.TRANSPORT, 2, 2)
    return [
        add_rule(
            table,
            "dispatch",
            ex.payload(ex.FIRST, ex.Base.NETWORK, _DESTINATION_OFFSET[version], size),
            ex.meta(behind, ex.Meta.L4_PROTOCOL),
            ex.payload(behind + 1, *port),
            ex.translate("hostipports", ex.FIRST),
            ex.dnat(table.family, ex.FIRST, behind),
        ),
        add_rule(
            table,
            "dispatch",
            ex.meta(ex.FIRST, ex.Meta.L4_PROTOCOL),
            ex.payload(ex.FIRST + 1, *port),
            ex.translate("hostports", ex.FIRST),
            ex.dnat(table.family, ex.FIRST, behind),
        ),
    ]


def _entrances(table: Table, version: int) -> list[Request]:
    local = (
        ex.fib_destination_type(ex.FIRST),
        ex.equal(ex.FIRST, ex.host32(_LOCAL)),
        ex.goto("dispatch"),
    )
    own = local if version == 4 else (*_not_to(_LOOPBACK6), *local)
    return [
        add_base_chain(table, "prerouting", "nat", Hook.PREROUTING, _DESTINATION_NAT),
        add_rule(table, "prerouting", *local),
        add_base_chain(table, "output", "nat", Hook.OUTPUT, _DESTINATION_NAT),
        add_rule(table, "output", *own),
    ]


def _postrouting(table: Table, network: Network, *, masquerade: bool) -> list[Request]:
    size = 4 if network.version == 4 else 16
    behind = ex.FIRST + ex.words(size)
    forwarded = (
        ex.payload(ex.FIRST, ex.Base.NETWORK, _DESTINATION_OFFSET[network.version], size),
        ex.meta(behind, ex.Meta.L4_PROTOCOL),
        ex.ct_original_port(behind + 1),
        ex.member("forwards", ex.FIRST),
        ex.masquerade(),
    )
    name = "postrouting"
    requests = [
        add_base_chain(table, name, "nat", Hook.POSTROUTING, _SOURCE_NAT),
        add_rule(table, name, *_dnated(), *_from(network), *forwarded),
    ]
    if network.version == 4:
        requests.append(add_rule(table, name, *_dnated(), *_from(_LOOPBACK), *forwarded))
    if masquerade:
        beyond = (*_not_to(network), *_not_to(_MULTICAST[network.version]))
        requests.append(add_rule(table, name, *_from(network), *beyond, ex.masquerade()))
    return requests


def _guard(table: Table, bridge: str) -> list[Request]:
    interface = bridge.encode().ljust(_INTERFACE_NAME_BYTES, b"\0")
    return [
        add_base_chain(table, "guard", "filter", Hook.PREROUTING, _BEFORE_CONNTRACK),
        add_rule(
            table,
            "guard",
            ex.meta(ex.FIRST, ex.Meta.IN_INTERFACE_NAME),
            ex.equal(ex.FIRST, interface),
            *_destination(_LOOPBACK),
            ex.equal(ex.FIRST, _LOOPBACK.network_address.packed),
            ex.drop(),
        ),
    ]


def _dnated() -> tuple[bytes, ...]:
    return (
        ex.ct_status(ex.FIRST),
        ex.mask(ex.FIRST, ex.host32(_DNATED)),
        ex.differ(ex.FIRST, ex.host32(0)),
    )


def _from(network: Network) -> tuple[bytes, ...]:
    size = network.max_prefixlen // 8
    return (
        ex.payload(ex.FIRST, ex.Base.NETWORK, _SOURCE_OFFSET[network.version], size),
        ex.mask(ex.FIRST, network.netmask.packed),
        ex.equal(ex.FIRST, network.network_address.packed),
    )


def _not_to(network: Network) -> tuple[bytes, ...]:
    return (*_destination(network), ex.differ(ex.FIRST, network.network_address.packed))


def _destination(network: Network) -> tuple[bytes, ...]:
    size = network.max_prefixlen // 8
    return (
        ex.payload(ex.FIRST, ex.Base.NETWORK, _DESTINATION_OFFSET[network.version], size),
        ex.mask(ex.FIRST, network.netmask.packed),
    )
