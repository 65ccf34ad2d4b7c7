"""A container's share of the node: CRI's numbers as the OCI specification's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cri.errors import InvalidRequest
from runtime.spec import Cpu, DeviceRule, HugepageLimit, Memory, Resources

if TYPE_CHECKING:
    from cri.api import api_pb2 as api
    from cri.specgen.subject import Subject

NOTHING = DeviceRule(allow=False)
EVERYTHING = DeviceRule(allow=True)


def resources(subject: Subject) -> Resources:
    """In CRI zero means "not specified"; the devices every container has are the runtime's."""
    everything = (
        subject.security.privileged and not subject.handler.config.privileged_without_host_devices
    )
    rules = (EVERYTHING,) if everything else (NOTHING, *subject.facts.device_rules)
    made = translated(subject.config.linux.resources, "config.linux.resources", devices=rules)
    return replace(made, block_io=subject.facts.block_io) if subject.facts.block_io else made


def translated(
    wanted: api.LinuxContainerResources, field: str, *, devices: tuple[DeviceRule, ...] = ()
) -> Resources:
    """CRI's words in those of the specification. field: where they stand in the request."""
    return Resources(
        devices=devices,
        memory=_memory(wanted, field),
        cpu=_cpu(wanted),
        hugepage_limits=tuple(
            HugepageLimit(limit.page_size, limit.limit) for limit in wanted.hugepage_limits
        ),
        unified=dict(wanted.unified),
    )


def filled(asked: Resources, base: Resources) -> Resources:
    """What is asked for, and of the base what nothing is said of; the devices are the asker's."""
    pages = {limit.page_size for limit in asked.hugepage_limits}
    others = (limit for limit in base.hugepage_limits if limit.page_size not in pages)
    return Resources(
        devices=asked.devices,
        memory=_filled_memory(asked.memory, base.memory),
        cpu=_filled_cpu(asked.cpu, base.cpu),
        pids=asked.pids or base.pids,
        block_io=asked.block_io or base.block_io,
        hugepage_limits=(*asked.hugepage_limits, *others),
        unified={**base.unified, **asked.unified},
    )


def _filled_memory(asked: Memory | None, base: Memory | None) -> Memory | None:
    """CRI knows the limit and that of swap, which belong together."""
    if asked is None or base is None:
        return asked or base
    return replace(base, limit=asked.limit, swap=asked.swap)


def _filled_cpu(asked: Cpu | None, base: Cpu | None) -> Cpu | None:
    """Quota and period belong together."""
    if asked is None or base is None:
        return asked or base
    time = asked if asked.quota or asked.period else base
    return Cpu(
        shares=asked.shares or base.shares,
        quota=time.quota,
        period=time.period,
        cpus=asked.cpus or base.cpus,
        mems=asked.mems or base.mems,
        realtime_runtime=base.realtime_runtime,
        realtime_period=base.realtime_period,
    )


def _memory(wanted: api.LinuxContainerResources, field: str) -> Memory | None:
    """Without a word on swap there is none: memory and swap together may not be more."""
    limit, swap = wanted.memory_limit_in_bytes, wanted.memory_swap_limit_in_bytes
    if not limit and not swap:
        return None
    if 0 < swap < limit:
        raise InvalidRequest(
            f"{field}.memory_swap_limit_in_bytes",
            f"{swap} is below memory_limit_in_bytes, {limit}: it counts memory and swap together",
        )
    return Memory(limit=limit or None, swap=swap or limit or None)


def _cpu(wanted: api.LinuxContainerResources) -> Cpu | None:
    cpu = Cpu(
        shares=wanted.cpu_shares or None,
        quota=wanted.cpu_quota or None,
        period=wanted.cpu_period or None,
        cpus=wanted.cpuset_cpus,
        mems=wanted.cpuset_mems,
    )
    return None if cpu == Cpu() else cpu
