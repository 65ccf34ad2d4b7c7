"""Resources as NRI says them: merged, and translated to CRI's words and back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cri.api import api_pb2 as api
from cri.nri.api import nri_pb2 as nri

Claim = Callable[[nri.Field, str], None]
"""A field, and the entry for lists and maps. Raises PluginsDisagree."""

MEMORY = {
    "limit": nri.MemLimit,
    "reservation": nri.MemReservation,
    "swap": nri.MemSwapLimit,
    "kernel": nri.MemKernelLimit,
    "kernel_tcp": nri.MemTCPLimit,
    "swappiness": nri.MemSwappiness,
    "disable_oom_killer": nri.MemDisableOomKiller,
    "use_hierarchy": nri.MemUseHierarchy,
}
CPU = {
    "shares": nri.CPUShares,
    "quota": nri.CPUQuota,
    "period": nri.CPUPeriod,
    "realtime_runtime": nri.CPURealtimeRuntime,
    "realtime_period": nri.CPURealtimePeriod,
}
CPUSET = {"cpus": nri.CPUSetCPUs, "mems": nri.CPUSetMems}
CLASSES = {"blockio_class": nri.BlockioClass, "rdt_class": nri.RdtClass}


def given(resources: nri.LinuxResources) -> Iterator[tuple[nri.Field, str, str]]:
    """What is said at all: field, entry for lists and maps, and where it stands."""
    for message, table, where in (
        (resources.memory, MEMORY, "memory."),
        (resources.cpu, CPU, "cpu."),
        (resources, CLASSES, ""),
    ):
        for name, field in table.items():
            if message.HasField(name):
                yield field, "", f"{where}{name}"
    for name, field in CPUSET.items():
        if getattr(resources.cpu, name):
            yield field, "", f"cpu.{name}"
    for limit in resources.hugepage_limits:
        yield nri.HugepageLimits, limit.page_size, f"hugepage_limits[{limit.page_size}]"
    for key in resources.unified:
        yield nri.CgroupsUnified, key, f"unified[{key}]"
    if resources.HasField("pids"):
        yield nri.PidsLimit, "", "pids.limit"


def merge(into: nri.LinuxResources, wanted: nri.LinuxResources) -> None:
    """What is wanted replaces what is there; device rules are added.

    Not MergeFrom: an optional number is a message, whose zero would leave the old one.
    """
    for table, of in ((MEMORY, "memory"), (CPU, "cpu")):
        for name in table:
            if getattr(wanted, of).HasField(name):
                getattr(getattr(into, of), name).CopyFrom(getattr(getattr(wanted, of), name))
    for name in CPUSET:
        if getattr(wanted.cpu, name):
            setattr(into.cpu, name, getattr(wanted.cpu, name))
    for name in (*CLASSES, "pids"):
        if wanted.HasField(name):
            getattr(into, name).CopyFrom(getattr(wanted, name))
    pages = {limit.page_size: limit.limit for limit in into.hugepage_limits}
    pages |= {limit.page_size: limit.limit for limit in wanted.hugepage_limits}
    del into.hugepage_limits[:]
    for size, limit in pages.items():
        into.hugepage_limits.add(page_size=size, limit=limit)
    into.unified.update(wanted.unified)
    into.devices.extend(wanted.devices)


def claim_all(wanted: nri.LinuxResources, claim: Claim) -> None:
    """Raises what `claim` raises."""
    for field, entry, _ in given(wanted):
        claim(field, entry)


def from_cri(resources: api.LinuxContainerResources) -> nri.LinuxResources:
    """CRI's zero is "not said"."""
    said = nri.LinuxResources(unified=resources.unified)
    for name, number in (
        ("shares", resources.cpu_shares),
        ("quota", resources.cpu_quota),
        ("period", resources.cpu_period),
    ):
        if number:
            getattr(said.cpu, name).value = number
    said.cpu.cpus, said.cpu.mems = resources.cpuset_cpus, resources.cpuset_mems
    if resources.memory_limit_in_bytes:
        said.memory.limit.value = resources.memory_limit_in_bytes
    if resources.memory_swap_limit_in_bytes:
        said.memory.swap.value = resources.memory_swap_limit_in_bytes
    for page in resources.hugepage_limits:
        said.hugepage_limits.add(page_size=page.page_size, limit=page.limit)
    return said


def to_cri(resources: nri.LinuxResources) -> api.LinuxContainerResources:
    """What of it CRI has words for, whose numbers have a sign."""
    said = api.LinuxContainerResources(
        cpu_shares=min(resources.cpu.shares.value, _MOST),
        cpu_quota=resources.cpu.quota.value,
        cpu_period=min(resources.cpu.period.value, _MOST),
        cpuset_cpus=resources.cpu.cpus,
        cpuset_mems=resources.cpu.mems,
        memory_limit_in_bytes=resources.memory.limit.value,
        memory_swap_limit_in_bytes=resources.memory.swap.value,
        unified=resources.unified,
    )
    for page in resources.hugepage_limits:
        said.hugepage_limits.add(page_size=page.page_size, limit=page.limit)
    return said


_MOST = (1 << 63) - 1
_IN_CRI = frozenset(
    (
        *(nri.MemLimit, nri.MemSwapLimit, nri.CPUShares, nri.CPUQuota, nri.CPUPeriod),
        *(nri.CPUSetCPUs, nri.CPUSetMems, nri.HugepageLimits, nri.CgroupsUnified),
    )
)


_UPDATABLE = frozenset(
    (
        *(nri.MemReservation, nri.MemTCPLimit, nri.MemSwappiness, nri.MemDisableOomKiller),
        *(nri.CPURealtimeRuntime, nri.CPURealtimePeriod, nri.PidsLimit),
    )
)
"""What CRI has no words for, and the kernel may change nevertheless."""


def fixed(resources: nri.LinuxResources) -> list[tuple[nri.Field, str]]:
    """What can't be changed of a container that exists: field, and where it stands."""
    found = [
        (field, path)
        for field, _, path in given(resources)
        if field not in _IN_CRI and field not in _UPDATABLE
    ]
    if resources.devices:
        found.append((nri.Devices, "devices"))
    return found


def without_cri(resources: nri.LinuxResources) -> nri.LinuxResources:
    """Only what CRI has no words for."""
    rest = nri.LinuxResources()
    rest.CopyFrom(resources)
    for name in ("shares", "quota", "period", "cpus", "mems"):
        rest.cpu.ClearField(name)
    for name in ("limit", "swap"):
        rest.memory.ClearField(name)
    rest.ClearField("hugepage_limits")
    rest.ClearField("unified")
    return rest
