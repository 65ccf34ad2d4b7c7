"""The runtime that podwright is: a spec compiled into a plan, which init executes."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace

from runtime.handlers.face import Ground, Work
from runtime.handlers.oci_cli import config
from runtime.init import plan
from runtime.init.values import ContainerPlan
from runtime.linux.fds import close_all
from runtime.monitor.hooks.plan import HookedPlan, HookPlan, checked
from runtime.prepare import Prepared, prepare
from runtime.seccomp.compile import install_flags, program

_NAMESPACES = ("net", "ipc", "uts")


class Embedded:
    """See `Handler`."""

    name = ""
    shim = False

    def prepare(self, ground: Ground, work: Work) -> Prepared:
        made, hooks = compiled(ground, work), checked(work.spec.hooks)
        if not hooks:
            return prepare(ground.place, work.directory, work.spec, made)
        place = ground.state / "bundle"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        hooked = HookedPlan(
            made,
            HookPlan(os.fspath(place), hooks, work.spec.annotations),
            json.dumps(config(work.spec, place)),
        )
        with contextlib.ExitStack() as undo:
            ours = _namespaces()
            undo.callback(close_all, ours)
            prepared = prepare(ground.place, work.directory, work.spec, hooked)
            undo.pop_all()
        plan_fd, *cgroup_fds = prepared.fds
        return replace(prepared, fds=(plan_fd, *ours, *cgroup_fds))


def _namespaces() -> tuple[int, ...]:
    """The node's, in which its hooks run: a monitor is in its pod's."""
    return tuple(
        os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _NAMESPACES
    )


def compiled(ground: Ground, work: Work) -> ContainerPlan:
    """The plan of a container. Raises InvalidSpec."""
    seccomp = work.spec.linux.seccomp
    code, flags = (program(seccomp), install_flags(seccomp)) if seccomp else (b"", 0)
    return plan.container(
        work.spec,
        work.rootfs,
        seccomp_program=code,
        seccomp_flags=flags,
        cgroups=ground.cgroups,
    )
