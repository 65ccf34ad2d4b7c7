"""Network devices that plugins want: names on the node, and in the pod. Pure."""

from __future__ import annotations

from collections.abc import Collection

from cri.errors import AdjustmentImpossible
from cri.nri.api import nri_pb2 as nri
from cri.nri.owners import removed
from cri.nri.refusals import Owner
from network import devices
from runtime.spec import Namespace


def wanted(linux: nri.LinuxContainerAdjustment) -> dict[str, str]:
    """Name on the node -> name in the pod."""
    return {
        host: device.name or host for host, device in linux.net_devices.items() if not removed(host)
    }


def check(
    linux: nri.LinuxContainerAdjustment, namespaces: Collection[Namespace], owner: Owner
) -> None:
    """namespaces: the container's. Raises AdjustmentImpossible."""
    names = wanted(linux)
    if not names:
        return
    problem = devices.check(names)
    if Namespace("network") not in namespaces:
        problem = "they go into the pod's network, and the container has another"
    if problem:
        first = next(iter(names))
        plugin = owner(nri.LinuxNetDevices, first) or "(unknown)"
        raise AdjustmentImpossible(plugin, f"linux.net_devices[{first}]", problem)
