"""Forks that become a container, or a process in one. Called by the monitor, single-threaded.

    child = launch.container(load_plan, Surroundings(stdio=…, mount_ns_fd=…, tasks=…))
    while (said := channel.receive(child.channel)) is not None: …

Both functions return at once; what becomes of the child is told by its channel. The caller owns the
descriptors in Child, and reaps the process. The plan is loaded in the child: the monitor lives for
long, and what it never decodes is memory it shares with all its siblings.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.init import steps
from runtime.init.capabilities import full, held
from runtime.init.channel import Reporter
from runtime.init.context import Context, Ourselves, Surroundings, Target
from runtime.init.steps import Step
from runtime.init.values import ContainerPlan, ProcessPlan
from runtime.linux.fds import Socket, pair
from runtime.linux.namespace import Clone, setns
from runtime.linux.process import Prctl, clone3, forget_threads, prctl

_Load = Callable[[], ContainerPlan | ProcessPlan]
_NEWPID = int(Clone.NEWPID)

__all__ = ["Child", "Surroundings", "Target", "container", "process", "warm_up"]


@dataclass(slots=True)  # not frozen: to make such a one costs a monitor memory
class Child:
    """pid: as the caller sees it."""

    pid: int
    pidfd: int
    channel: Socket


def container(
    load: Callable[[], ContainerPlan],
    surroundings: Surroundings,
    sequence: Sequence[Step] = steps.CONTAINER,
) -> Child:
    """Starts the first process of a container."""
    flags = _NEWPID if surroundings.own_pid_namespace else 0
    return _fork(sequence, load, surroundings, None, surroundings.pid_ns_fd, flags)


def process(
    load: Callable[[], ProcessPlan],
    target: Callable[[], Target],
    surroundings: Surroundings,
    sequence: Sequence[Step] = steps.PROCESS,
) -> Child:
    """Starts a process in a running container; surroundings.mount_ns_fd is not used.

    target: as `load`, for the child.

    If sheltered, who is forked prepares all, and forks in turn: see `namespaces.be_born`, and
    `channel.Born`. Else it becomes the process itself; OSError ENOMEM: the namespace has ended.
    """
    pid_ns_fd = -1 if surroundings.sheltered else surroundings.pid_ns_fd
    return _fork(sequence, load, surroundings, target, pid_ns_fd, 0)


@functools.cache
def warm_up() -> Ourselves:
    """What is the same for all children; the spawner calls it once before it forks monitors.

    From here on nobody may trace this process or look at its descriptors, and what it forks is
    born so: no moment is left in which a container could reach into what joins it (CVE-2016-9962).
    """
    prctl(Prctl.SET_DUMPABLE, 0)
    forget_threads()
    ignored = [
        number
        for number in signal.valid_signals()
        if number not in (signal.SIGKILL, signal.SIGSTOP)
        and signal.getsignal(number) is signal.SIG_IGN
    ]
    cpus = os.cpu_count() or 1
    restricted = len(os.sched_getaffinity(0)) < cpus
    return Ourselves(
        held=held(),
        in_user_namespace=full(),
        ignored=tuple(ignored),
        all_cpus=tuple(range(cpus)) if restricted else (),
        pid_ns_fd=os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC),
    )


def _fork(
    sequence: Sequence[Step],
    load: _Load,
    surroundings: Surroundings,
    target: Callable[[], Target] | None,
    pid_ns_fd: int,
    flags: int,
) -> Child:
    """pid_ns_fd: where the child is born; -1: here, or in a namespace of its own."""
    ourselves = warm_up()
    ours, theirs = pair()
    joins = pid_ns_fd >= 0
    if joins:
        flags = 0
        setns(pid_ns_fd, _NEWPID)
    try:
        pid, pidfd = clone3(flags, cgroup_fd=surroundings.cgroup_fd)
        if pid == 0:
            ours.close()  # or we would never see the monitor's end of it close
            _become(Reporter(theirs), sequence, load, surroundings, target)
    except BaseException:
        ours.close()
        raise
    finally:
        if joins:
            setns(ourselves.pid_ns_fd, _NEWPID)
        theirs.close()
    return Child(pid, pidfd, ours)


def _become(
    report: Reporter,
    sequence: Sequence[Step],
    load: _Load,
    surroundings: Surroundings,
    target: Callable[[], Target] | None,
) -> None:
    """The child: never returns."""

    def prepare() -> Context:
        joined = None if target is None else target()
        return Context(load(), surroundings, warm_up(), report, joined)

    steps.run(sequence, prepare, report)
