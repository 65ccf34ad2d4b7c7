"""What the daemon makes ready before a monitor starts a container: its cgroup, and its plan.

Done here and not in the monitor, since the daemon is one and monitors are many.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.cgroup.driver import Driver
from runtime.cgroup.limits import limits
from runtime.cgroup.tree import Cgroup, Hierarchy
from runtime.codec import encode
from runtime.errors import RuntimeFault
from runtime.linux.fds import close_all
from runtime.monitor.messages import Stage
from runtime.spec import Spec
from runtime.sweep import CGROUPS_FILE


@dataclass(frozen=True, slots=True)
class Prepared:
    """fds: what travels with Start, owned; notes: limits that this kernel can't set; joined: to be
    called in a worker, if it is there, once the first process runs or never will."""

    cgroup: Cgroup
    fds: tuple[int, ...]
    notes: tuple[str, ...]
    stages: tuple[Stage, ...]
    joined: Callable[[], None] | None = None

    def close(self) -> None:
        close_all(self.fds)


@dataclass(frozen=True, slots=True)
class Place:
    """Where cgroups are made, and by whom."""

    hierarchy: Hierarchy
    driver: Driver


def prepare(place: Place, directory: Path, spec: Spec, plan: object) -> Prepared:
    """Makes the cgroup with its limits, and the plan as a file. Nothing is left by a failure.

    directory: the monitor's; the cgroup is written down in it first; plan: a dataclass, what the
    handler's code in the monitor takes. Raises InvalidSpec, OSError.
    """
    hierarchy = place.hierarchy
    begin = time.monotonic_ns()
    wanted = limits(spec.linux.resources, hierarchy.version)
    cgroup = hierarchy.cgroup(spec.linux.cgroups_path)
    note(directory / CGROUPS_FILE, spec.linux.cgroups_path)
    created = place.driver.create(cgroup, wanted)
    plan_fd = -1
    cgroup_fds: list[int] = []
    try:
        clone_fd = cgroup.clone_fd()
        cgroup_fds = cgroup.attach_fds() if clone_fd is None else [clone_fd]
        made = time.monotonic_ns()
        plan_fd = plan_file(plan)
    except (OSError, RuntimeFault):
        close_all((plan_fd, *cgroup_fds))
        if created.joined is not None:
            created.joined()
        cgroup.remove()
        raise
    stages = (
        Stage("create cgroup", begin, made - begin),
        Stage("write plan", made, time.monotonic_ns() - made),
    )
    return Prepared(cgroup, (plan_fd, *cgroup_fds), created.notes, stages, created.joined)


def announce(place: Place, directory: Path, spec: Spec, plan: object) -> Prepared:
    """The same, where somebody else makes the cgroup: what is around it, and the plan."""
    begin = time.monotonic_ns()
    cgroup = place.hierarchy.cgroup(spec.linux.cgroups_path)
    note(directory / CGROUPS_FILE, spec.linux.cgroups_path)
    around = place.driver.enclose(cgroup, limits(spec.linux.resources, place.hierarchy.version))
    made = time.monotonic_ns()
    try:
        plan_fd = plan_file(plan)
    except OSError:
        if around.joined is not None:
            around.joined()
        raise
    stages = (
        Stage("enclose cgroup", begin, made - begin),
        Stage("write plan", made, time.monotonic_ns() - made),
    )
    return Prepared(cgroup, (plan_fd,), around.notes, stages, around.joined)


def note(file: Path, line: str) -> None:
    """Writes down what is about to be made, for whoever clears up after a crash: see sweep.py."""
    fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line.encode() + b"\n")
    finally:
        os.close(fd)


def plan_file(plan: object) -> int:
    """A plan as a file of nobody's, the caller's to close."""
    fd = os.memfd_create("podwright-plan", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(json.dumps(encode(plan), separators=(",", ":")).encode("ascii"))
    return fd
