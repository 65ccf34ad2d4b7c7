"""The runtime that podwright is: a spec compiled into a plan, which init executes."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace

from runtime.handlers.face import Ground, Work
from runtime.handlers.oci_cli import config
from runtime.init import plan
from runtime.init.values import ContainerPlan, Listener
from runtime.linux.fds import close_all
from runtime.linux.seccomp import NEW_LISTENER
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
    made = plan.container(
        work.spec,
        work.rootfs,
        seccomp_program=code,
        seccomp_flags=flags,
        cgroups=ground.cgroups,
    )
    if seccomp is None or not flags & NEW_LISTENER:
        return made
    told = Listener(seccomp.listener_path, _state(work, seccomp.listener_metadata))
    return replace(made, process=replace(made.process, listener=told))


def _state(work: Work, metadata: str) -> str:
    """What a seccomp agent is told: ContainerProcessState of the runtime specification."""
    state = {
        "ociVersion": work.spec.oci_version,
        "id": work.container_id,
        "status": "creating",
        "bundle": os.fspath(work.directory),
        "annotations": dict(work.spec.annotations),
    }
    said = {"ociVersion": work.spec.oci_version, "fds": ["seccompFd"], "metadata": metadata}
    return json.dumps({**said, "state": state})
