"""Scheduler, I/O priority, memory policy: what the kernel is told, what is refused before."""

from __future__ import annotations

import dataclasses
import struct

import pytest

from runtime.codec import decode, encode
from runtime.errors import InvalidSpec
from runtime.init import plan
from runtime.init.scheduling import scheduling
from runtime.init.values import SchedulingPlan
from runtime.spec import IoPriority, Linux, MemoryPolicy, Process, Rootfs, Scheduler, Spec

PLAIN = Process(("true",))


def process(**fields: object) -> Spec:
    return Spec(dataclasses.replace(PLAIN, **fields))  # type: ignore[arg-type]  # by name


def policy(**fields: object) -> Spec:
    return Spec(PLAIN, linux=Linux(memory_policy=MemoryPolicy(**fields)))  # type: ignore[arg-type]


def test_a_process_that_asks_for_nothing_has_no_such_plan() -> None:
    assert plan.container(Spec(PLAIN), Rootfs(lower=("/",))).process.scheduling is None


def test_a_scheduler_is_the_kernels_struct() -> None:
    wanted = Scheduler(
        "SCHED_DEADLINE", flags=("SCHED_FLAG_RECLAIM",), runtime=1, deadline=2, period=3
    )
    made = scheduling(process(scheduler=wanted))
    assert made == SchedulingPlan(scheduler=struct.pack("=IIQiIQQQ", 48, 6, 2, 0, 0, 1, 2, 3))
    nice = scheduling(process(scheduler=Scheduler("SCHED_BATCH", nice=-5)))
    assert nice == SchedulingPlan(scheduler=struct.pack("=IIQiIQQQ", 48, 3, 0, -5, 0, 0, 0, 0))


def test_an_io_priority_is_class_and_level() -> None:
    made = scheduling(process(io_priority=IoPriority("IOPRIO_CLASS_BE", 7)))
    assert made == SchedulingPlan(io_priority=(2 << 13) | 7)


def test_memory_nodes_are_a_mask_of_whole_longs() -> None:
    made = scheduling(policy(mode="MPOL_BIND", nodes="0-2,64", flags=("MPOL_F_STATIC_NODES",)))
    mask = (0b111 | 1 << 64).to_bytes(16, "little")
    assert made == SchedulingPlan(memory_mode=2 | 1 << 15, memory_nodes=mask)
    assert scheduling(policy(mode="MPOL_LOCAL")) == SchedulingPlan(memory_mode=4)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (process(scheduler=Scheduler("SCHED_MAGIC")), "process.scheduler.policy"),
        (process(scheduler=Scheduler("SCHED_OTHER", nice=20)), "process.scheduler.nice"),
        (process(scheduler=Scheduler("SCHED_RR", priority=100)), "process.scheduler.priority"),
        (process(scheduler=Scheduler("SCHED_RR", flags=("X",))), "process.scheduler.flags[0]"),
        (process(scheduler=Scheduler("SCHED_RR", runtime=-1)), "process.scheduler"),
        (process(io_priority=IoPriority("IOPRIO_CLASS_X")), "process.ioPriority.class"),
        (process(io_priority=IoPriority("IOPRIO_CLASS_RT", 8)), "process.ioPriority.priority"),
        (policy(mode="BIND"), "linux.memoryPolicy.mode"),
        (policy(mode="MPOL_BIND", flags=("F",)), "linux.memoryPolicy.flags[0]"),
        (policy(mode="MPOL_BIND", nodes="0-"), "linux.memoryPolicy.nodes"),
        (policy(mode="MPOL_BIND", nodes="3-1"), "linux.memoryPolicy.nodes"),
        (policy(mode="MPOL_BIND", nodes="1024"), "linux.memoryPolicy.nodes"),
    ],
)
def test_what_the_kernel_does_not_know_is_refused_by_its_field(spec: Spec, path: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        scheduling(spec)
    assert str(caught.value).startswith(f"{path}: ")


def test_config_json_has_the_specifications_names() -> None:
    spec = Spec(
        dataclasses.replace(
            PLAIN,
            scheduler=Scheduler("SCHED_RR", priority=1),
            io_priority=IoPriority("IOPRIO_CLASS_RT", 2),
        ),
        linux=Linux(memory_policy=MemoryPolicy("MPOL_BIND", "0")),
    )
    written = encode(spec, camel=True)
    assert isinstance(written, dict)
    assert written["process"]["ioPriority"] == {"class": "IOPRIO_CLASS_RT", "priority": 2}
    assert written["process"]["scheduler"]["policy"] == "SCHED_RR"
    assert written["linux"]["memoryPolicy"]["nodes"] == "0"
    assert decode(Spec, written, camel=True) == spec
