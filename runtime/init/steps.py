"""THE list of steps between fork and exec, in order. A failure names its step.

Every step is a function of the Context. Those of a container: first what needs the node's mount
namespace, then what needs the container's, then what gives up privileges; each assumes that all
above it have run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence

from runtime.init import (
    credentials,
    devices,
    execute,
    identity,
    mounts,
    namespaces,
    rootfs,
    security,
)
from runtime.init.channel import EXIT_FAILED, Reporter
from runtime.init.context import Context

Step = tuple[str, Callable[[Context], None]]

CONTAINER: tuple[Step, ...] = (
    # in the node's mount namespace
    ("reset", credentials.reset),
    ("oom score", credentials.set_oom_score),
    ("confinement", security.confine),
    ("namespaces", namespaces.leave_the_pods),
    ("root file system", rootfs.make_root),
    ("identity", identity.settle),
    ("mount sources", mounts.open_sources),
    ("null device", security.open_null),
    # in a mount namespace with nothing but the container's root
    ("mount namespace", rootfs.enter),
    ("mounts", mounts.attach),
    ("devices", devices.make_nodes),
    ("terminal", devices.make_console),
    ("console", devices.mount_console),
    ("working directory", execute.make_working_directory),
    ("cgroup", credentials.join_cgroup),
    ("cgroup namespace", credentials.leave_cgroup_namespace),
    ("cgroup mounts", mounts.attach_cgroups),
    ("protected paths", security.protect),
    ("read-only mounts", rootfs.finish_readonly),
    ("pivot", rootfs.pivot),
    # in the container
    ("current directory", execute.enter_working_directory),
    ("descriptors", execute.arrange_descriptors),
    ("limits", credentials.set_limits),
    ("user namespace", credentials.enter_user_namespace),
    ("credentials", credentials.become),
    # and in the sight of the pod's other containers
    ("pid namespace", namespaces.be_born),
    ("controlling terminal", execute.take_terminal),
    ("monitor", credentials.bind_to_monitor),
    ("ready", execute.tell_ready),
    ("seccomp", credentials.filter_system_calls),
    ("exec", execute.execute),
)

PROCESS: tuple[Step, ...] = (
    ("reset", credentials.reset),
    ("oom score", credentials.set_oom_score),
    ("confinement", security.confine),
    ("identity", identity.adopt),
    ("cgroup", credentials.join_cgroup),
    ("namespaces", namespaces.join),
    # in the container
    ("root", execute.open_container_root),
    ("terminal", devices.make_console),
    ("working directory", execute.open_working_directory),
    ("current directory", execute.enter_working_directory),
    ("descriptors", execute.arrange_descriptors),
    ("limits", credentials.set_limits),
    ("user namespace", credentials.enter_user_namespace),
    ("credentials", credentials.become),
    # and in its sight
    ("pid namespace", namespaces.be_born),
    ("controlling terminal", execute.take_terminal),
    ("monitor", credentials.bind_to_monitor),
    ("ready", execute.tell_ready),
    ("seccomp", credentials.filter_system_calls),
    ("exec", execute.execute),
)


_FORGOTTEN = (sys.path, sys.meta_path, sys.path_hooks, sys.path_importer_cache)


def run(steps: Sequence[Step], prepare: Callable[[], Context], report: Reporter) -> None:
    """Runs them all. Never returns: the last one is execve, and a failure ends the process.

    prepare: loads the plan and makes the context; its failure is the step "plan".
    """
    name = "plan"
    try:
        began = time.monotonic_ns()
        _forget_imports()
        context = prepare()
        now = time.monotonic_ns()
        context.stages.append((name, began, now - began))
        for name, step in steps:
            began = now
            step(context)
            now = time.monotonic_ns()
            context.stages.append((name, began, now - began))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it must not unwind into the monitor
        report.failed(name, error)
    os._exit(EXIT_FAILED)


def _forget_imports() -> None:
    """From now on nothing can be imported, nor any source be read to show a traceback.

    An image may hold a /usr/lib/python3.11 of its own. Assigned, not cleared: what the lists hold
    stays alive in _FORGOTTEN, for to free it would touch, and so copy, a hundred pages of memory.
    """
    sys.path = []
    sys.meta_path = []
    sys.path_hooks = []
    sys.path_importer_cache = {}
    sys.unraisablehook = _ignore
    sys.excepthook = _ignore


def _ignore(*_: object) -> None:
    pass
