"""What becomes of a container's resources when some of them are changed. Pure.

In CRI zero and "" mean "as it is". Hugepages are told by size and files of cgroup v2 by name; the
others of them stay as well.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from cri.specgen import resources
from cri.specgen.process import OOM_SCORES
from runtime.spec import Cpu, Memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.spec import Resources, Spec

FIELD = "linux"
# What the kernel takes in one file, or in an order that depends on the other.
_TOGETHER = (
    ("cpu_period", "cpu_quota"),
    ("cpu_shares",),
    ("memory_limit_in_bytes", "memory_swap_limit_in_bytes"),
    ("cpuset_cpus",),
    ("cpuset_mems",),
    ("oom_score_adj",),
)


def merged(
    old: api.LinuxContainerResources, asked: api.LinuxContainerResources
) -> api.LinuxContainerResources:
    """The old ones with what is asked for. Raises InvalidRequest.

    A container without swap stays without when only its memory limit is changed.
    """
    if asked.oom_score_adj not in OOM_SCORES:
        raise InvalidRequest(
            f"{FIELD}.oom_score_adj", f"{asked.oom_score_adj} is not between -1000 and 1000"
        )
    new = api.LinuxContainerResources()
    new.CopyFrom(old)
    if asked.memory_limit_in_bytes and old.memory_swap_limit_in_bytes == old.memory_limit_in_bytes:
        new.ClearField("memory_swap_limit_in_bytes")
        if old.memory_swap_limit_in_bytes:
            new.memory_swap_limit_in_bytes = asked.memory_limit_in_bytes
    pages = {limit.page_size: limit for limit in (*old.hugepage_limits, *asked.hugepage_limits)}
    del new.hugepage_limits[:]
    plain = api.LinuxContainerResources()
    plain.CopyFrom(asked)
    del plain.hugepage_limits[:]
    new.MergeFrom(plain)  # which passes over zeros, and merges maps by key
    new.hugepage_limits.extend(pages.values())
    return new


def touched(
    asked: api.LinuxContainerResources, new: api.LinuxContainerResources
) -> api.LinuxContainerResources:
    """What of the new ones is to be written: what is asked for, and what goes with it."""
    part = api.LinuxContainerResources(hugepage_limits=asked.hugepage_limits, unified=asked.unified)
    for names in _TOGETHER:
        if any(getattr(asked, name) for name in names):
            for name in names:
                setattr(part, name, getattr(new, name))
    return part


@dataclasses.dataclass(frozen=True, slots=True)
class Beyond:
    """What NRI plugins change that CRI has no words for. remember: their earlier wishes as they are
    kept (None: none), with these."""

    resources: Resources
    remember: Callable[[bytes | None], bytes]


def with_beyond(asked: Resources, beyond: Beyond | None) -> Resources:
    """Both."""
    if beyond is None:
        return asked
    more = beyond.resources
    return dataclasses.replace(
        asked,
        memory=_over(asked.memory, more.memory),
        cpu=_over(asked.cpu, more.cpu),
        pids=more.pids or asked.pids,
    )


P = TypeVar("P", Memory, Cpu)


def _over(base: P | None, more: P | None) -> P | None:
    if base is None or more is None:
        return more or base
    said = {name: getattr(more, name) for name in type(more).__slots__}
    return dataclasses.replace(
        base, **{name: one for name, one in said.items() if one not in (None, "")}
    )


def respecified(
    spec: Spec,
    part: api.LinuxContainerResources,
    lowest_oom_score: int,
    beyond: Beyond | None = None,
) -> Spec:
    """The spec of a container with what of its resources is touched; others may have added more."""
    old = spec.linux.resources
    asked = resources.translated(part, FIELD, devices=old.devices)
    process = spec.process
    if part.oom_score_adj:
        score = max(part.oom_score_adj, lowest_oom_score)
        process = dataclasses.replace(process, oom_score_adj=score)
    return dataclasses.replace(
        spec,
        process=process,
        linux=dataclasses.replace(
            spec.linux, resources=with_beyond(resources.filled(asked, old), beyond)
        ),
    )
