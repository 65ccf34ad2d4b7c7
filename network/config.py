"""The built-in network's configuration, checked once when it is made."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IFNAMSIZ of linux/if.h is 16, with its zero byte.
INTERFACE_NAME_LENGTH = 15


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """The built-in network. Raises ValueError where a value can't be used.

    enabled: whether pods are attached by us at all.
    state_dir: tmpfs directory of this boot; `net/` and `ipam/` below it are ours.
    subnets: at most one IPv4 and one IPv6, the gateway is the first address of each.
    mtu: bytes; 0: the MTU of the interface that has the node's default route.
    masquerade: whether what pods send beyond their subnet leaves with the node's address.
    cni_conf_dir, cni_bin_dir: where status() looks for the reason why there is no network.
    """

    enabled: bool
    state_dir: Path
    bridge: str = "podwright0"
    subnets: tuple[str, ...] = ("10.87.0.0/16",)
    mtu: int = 0
    masquerade: bool = True
    cni_conf_dir: Path = Path("/etc/cni/net.d")
    cni_bin_dir: Path = Path("/opt/cni/bin")

    def __post_init__(self) -> None:
        check_interface_name("bridge", self.bridge)
        versions = [network.version for network in self.networks()]
        if self.enabled and not versions:
            raise ValueError("subnets: name one IPv4 subnet, one IPv6 subnet, or one of each")
        if len(set(versions)) != len(versions):
            raise ValueError("subnets: at most one IPv4 and one IPv6 subnet")
        if self.mtu and not 576 <= self.mtu <= 65535:
            raise ValueError(f"mtu: {self.mtu} is not in 576..65535 (0: as the default route's)")
        if self.mtu and self.mtu < 1280 and 6 in versions:
            raise ValueError(f"mtu: {self.mtu} is too small for IPv6, which needs 1280")

    def networks(self) -> tuple[Network, ...]:
        """The subnets as values, IPv4 first."""
        return tuple(sorted(map(parse_subnet, self.subnets), key=lambda network: network.version))


def parse_subnet(text: str) -> Network:
    """The subnet that `text` names. Raises ValueError if it's none or too small for a pod."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"subnets: {error}") from None
    if network.num_addresses < 4:
        raise ValueError(f"subnets: {text} is too small: gateway and one pod need a /30 (or /126)")
    return network


def gateway_of(network: Network) -> Address:
    """The address that the bridge itself has: the subnet's first."""
    return network[1]


def check_interface_name(field: str, name: str) -> None:
    """Raises ValueError if the kernel would not take `name` for an interface (dev_valid_name)."""
    if not 0 < len(name.encode()) <= INTERFACE_NAME_LENGTH or name in (".", ".."):
        raise ValueError(
            f"{field}: {name!r} is no interface name (1 to {INTERFACE_NAME_LENGTH} bytes)"
        )
    if name in ("all", "default"):
        raise ValueError(f"{field}: {name!r} is a name that the kernel keeps for settings")
    if any(character in "/:" or character.isspace() for character in name):
        raise ValueError(f"{field}: {name!r} is no interface name (no '/', ':' or space)")
