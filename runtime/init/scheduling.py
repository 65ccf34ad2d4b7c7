"""Scheduler, I/O priority and memory policy of a spec as what the kernel takes. Pure.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-process (scheduler,
ioPriority), config-linux.md#memory-policy.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping

from runtime.errors import InvalidSpec
from runtime.init.values import SchedulingPlan
from runtime.spec import IoPriority, MemoryPolicy, Scheduler, Spec

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size policy flags nice priority runtime deadline period
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IO_CLASS_SHIFT = 13
_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
_MODE_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_NODES = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*")
_MOST_NODES = 1024  # CONFIG_NODES_SHIFT is 10 at most


def scheduling(spec: Spec) -> SchedulingPlan | None:
    """None: as podwright itself is. Raises InvalidSpec."""
    process, policy = spec.process, spec.linux.memory_policy
    if process.scheduler is None and process.io_priority is None and policy is None:
        return None
    mode, nodes = _memory_policy(policy) if policy is not None else (None, b"")
    return SchedulingPlan(
        scheduler=_scheduler(process.scheduler) if process.scheduler is not None else b"",
        io_priority=_io_priority(process.io_priority) if process.io_priority is not None else None,
        memory_mode=mode,
        memory_nodes=nodes,
    )


def _named(name: str, known: Mapping[str, int], path: str) -> int:
    if name not in known:
        raise InvalidSpec(path, f'"{name}" is none of {", ".join(known)}')
    return known[name]


def _flags(names: Iterable[str], known: Mapping[str, int], path: str) -> int:
    bits = 0
    for index, name in enumerate(names):
        bits |= _named(name, known, f"{path}[{index}]")
    return bits


def _scheduler(wanted: Scheduler) -> bytes:
    path = "process.scheduler"
    if not -20 <= wanted.nice <= 19:
        raise InvalidSpec(f"{path}.nice", f"{wanted.nice} is not in -20..19")
    if not 0 <= wanted.priority <= 99:
        raise InvalidSpec(f"{path}.priority", f"{wanted.priority} is not in 0..99")
    times = (wanted.runtime, wanted.deadline, wanted.period)
    if not all(0 <= time < 1 << 63 for time in times):
        raise InvalidSpec(path, "runtime, deadline and period are nanoseconds")
    return _ATTRIBUTES.pack(
        _ATTRIBUTES.size,
        _named(wanted.policy, _POLICIES, f"{path}.policy"),
        _flags(wanted.flags, _SCHEDULER_FLAGS, f"{path}.flags"),
        wanted.nice,
        wanted.priority,
        *times,
    )


def _io_priority(wanted: IoPriority) -> int:
    path = "process.ioPriority"
    if not 0 <= wanted.priority <= 7:
        raise InvalidSpec(f"{path}.priority", f"{wanted.priority} is not in 0..7")
    io_class = _named(wanted.io_class, _IO_CLASSES, f"{path}.class")
    return io_class << _IO_CLASS_SHIFT | wanted.priority


def _memory_policy(wanted: MemoryPolicy) -> tuple[int, bytes]:
    path = "linux.memoryPolicy"
    mode = _named(wanted.mode, _MODES, f"{path}.mode")
    mode |= _flags(wanted.flags, _MODE_FLAGS, f"{path}.flags")
    if not wanted.nodes:
        return mode, b""
    if not _NODES.fullmatch(wanted.nodes):
        raise InvalidSpec(f"{path}.nodes", f'"{wanted.nodes}" is no list such as 0-3,7')
    mask = 0
    for part in wanted.nodes.split(","):
        first, _, last = part.partition("-")
        begin, end = int(first), int(last or first)
        if begin > end or end >= _MOST_NODES:
            raise InvalidSpec(f"{path}.nodes", f'"{part}" is no range of nodes below {_MOST_NODES}')
        mask |= ((1 << (end - begin + 1)) - 1) << begin
    return mode, mask.to_bytes((mask.bit_length() + 63) // 64 * 8, "little")
