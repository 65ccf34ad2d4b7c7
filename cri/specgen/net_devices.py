"""Interfaces of the node that a container's pod is to have. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from network import devices
from runtime.spec import Linux, Namespace


def names(linux: Linux) -> dict[str, str]:
    """Name on the node -> name in the pod."""
    return {host: device.name or host for host, device in linux.net_devices.items()}


def problem(wanted: Mapping[str, str], namespaces: Collection[Namespace]) -> str:
    """Why a container with these namespaces can't have them; "": it can. wanted: as `names`."""
    if wanted and Namespace("network") not in namespaces:
        return "they go into the pod's network, and the container has another"
    return devices.check(wanted)
