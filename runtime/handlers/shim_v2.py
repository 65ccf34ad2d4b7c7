"""One of containerd's shims: runc's, Kata's, gVisor's.

    /run/containerd/     an empty directory of the node; each pod's shim has a tmpfs there, unseen

The monitor starts it, one for a pod, and asks it by ttrpc. What it is to make is written as for an
OCI command line: see `oci_cli`.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.handlers.face import Ground, SandboxWork, Work
from runtime.handlers.oci_cli import config
from runtime.handlers.shim_options import Options, message
from runtime.init import plan
from runtime.monitor.shim.bundle import PAUSE
from runtime.monitor.shim.plan import MARK, NAMESPACE, PLACE, ShimPlan, TaskPlan, bundle
from runtime.prepare import Prepared, announce, note
from runtime.spec import Linux, Process, Root, Spec, User
from runtime.sweep import CGROUPS_FILE, MARKS_FILE, STATES_FILE

NONE, TASK, API = "none", "task", "api"

_KIND, _SANDBOX_ID = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
_OF_CONTAINERS = ("io.kubernetes.cri.container-name", "io.kubernetes.cri.image-name")
_SANDBOX_MOUNTS = ("/proc", "/dev", "/dev/shm")  # noqa: S108 - a place in a container
_NOBODY = 65534
_PATH = "PATH=/"  # Kata's agent wants a variable


@dataclass(frozen=True, slots=True)
class ShimV2:
    """A handler (see `Handler`) that asks the shim `binary`.

    options: the runtime's, by the names that containerd's configuration has for them; sandbox: what
    it makes of a pod before the containers: nothing (none), a container (task), or what it likes,
    by containerd's sandbox service (api); hidden: mounts of the node that it is not to see.
    """

    name: str
    binary: str
    options: Options = field(default_factory=dict)
    sandbox: str = NONE
    hidden: tuple[str, ...] = ()

    @property
    def shim(self) -> bool:
        return True

    def prepare(self, ground: Ground, work: Work) -> Prepared:
        compiled = plan.container(work.spec, work.rootfs, cgroups=ground.cgroups)
        sandbox_id = work.directory.name
        spec = labelled(work.spec, sandbox_id, "container")
        sandbox = sandbox_spec(spec, sandbox_id)
        kind, options = message(self.binary, self.options)
        made = TaskPlan(
            binary=self.binary,
            rootfs=compiled.root,
            config=json.dumps(config(spec, Path(bundle(work.container_id)))),
            sandbox=json.dumps(config(sandbox, Path(bundle(sandbox_id)))),
            options_type=kind,
            options=options,
            lookup=compiled.process.lookup,
            hidden=self.hidden,
            sandbox_task=self.sandbox == TASK,
        )
        ids = (sandbox_id, work.container_id) if self.sandbox == TASK else (work.container_id,)
        self._note(work.directory, ids, sandbox.linux.cgroups_path)
        return announce(ground.place, work.directory, spec, made)

    def prepare_sandbox(self, work: SandboxWork) -> ShimPlan:
        """See `MakesSandboxes`. Of the sandbox's config.json shims read annotations and cgroup."""
        sandbox_id = work.directory.name
        spec = Spec(
            Process(()),
            annotations=work.annotations,
            linux=Linux(work.namespaces, cgroups_path=f"{work.cgroup_parent}/containers"),
        )
        sandbox = sandbox_spec(spec, sandbox_id)
        kind, options = message(self.binary, self.options)
        self._note(work.directory, (sandbox_id,), sandbox.linux.cgroups_path)
        return ShimPlan(
            binary=self.binary,
            sandbox=json.dumps(config(sandbox, Path(bundle(sandbox_id)))),
            options_type=kind,
            options=options,
            hidden=self.hidden,
            pod_config=work.config,
            annotations=sandbox.annotations,
        )

    def _note(self, directory: Path, ids: tuple[str, ...], sandbox_cgroup: str) -> None:
        """What is left if the monitor dies, for `sweep`. ids: of tasks."""
        Path(PLACE).mkdir(mode=0o711, parents=True, exist_ok=True)
        note(directory / MARKS_FILE, f"{MARK}={directory.name}")
        if directory.name in ids:
            note(directory / CGROUPS_FILE, sandbox_cgroup)
        root = self.options.get("Root") or f"{PLACE}/runc"  # that one is nowhere on the node
        for task_id in ids:
            note(directory / STATES_FILE, f"{root}/{NAMESPACE}/{task_id}")


def labelled(spec: Spec, sandbox_id: str, kind: str) -> Spec:
    """With the annotations by which shims tell a pod's tasks apart; nobody else may set them.

    kind: sandbox or container.
    """
    theirs = {_KIND: kind, _SANDBOX_ID: sandbox_id}
    return replace(spec, annotations={**spec.annotations, **theirs})


def sandbox_spec(spec: Spec, sandbox_id: str) -> Spec:
    """Of the pod's sandbox task, from that of a container. Pure.

    It has the pod's namespaces, a cgroup beside the container's, a root with one program, and no
    limits of its own.
    """
    annotations = {
        key: value for key, value in spec.annotations.items() if key not in _OF_CONTAINERS
    }
    parent, _, _ = spec.linux.cgroups_path.partition(".scope/")
    linux = replace(
        spec.linux,
        cgroups_path=posixpath.join(posixpath.dirname(parent), sandbox_id),
        resources=type(spec.linux.resources)(),
        devices=(),
        seccomp=None,
    )
    made = replace(
        spec,
        annotations=annotations,
        hooks={},
        linux=linux,
        mounts=tuple(item for item in spec.mounts if item.destination in _SANDBOX_MOUNTS),
        process=Process(
            (f"/{PAUSE}",), env=(_PATH,), user=User(_NOBODY, _NOBODY), no_new_privileges=True
        ),
        root=Root(readonly=True),
    )
    return labelled(made, sandbox_id, "sandbox")
