"""Any binary with the OCI command line: runc, crun, runsc.

    STATE/bundle/           empty: each container mounts its own bundle here, where nobody else sees
    STATE/handlers/<name>/  the binary's --root, unless configured

What the embedded runtime resolves by itself becomes what any binary understands: the pod's shared
memory a bind mount from the bundle; the namespaces paths and the user numbers, both by the
monitor's child.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from runtime.codec import encode
from runtime.handlers.face import Ground, Work
from runtime.init import plan
from runtime.init.namespace_plan import node_path
from runtime.monitor.oci.plan import ROOTFS, SHM, OciPlan
from runtime.prepare import Prepared, announce, note, prepare
from runtime.spec import NODE_NAMESPACE, Mount, Namespace, Spec
from runtime.sweep import STATES_FILE

_VERSION = "1.0.2"  # of the specification: what old binaries know is all that we use
_THEIR_OWN = ("annotations", "sysctl", "unified")  # what is in there may be empty, and mean it
_SHM_OPTIONS = ("rbind", "rprivate", "rw")
_PROPAGATION = (("rshared", ("rshared", "shared")), ("rslave", ("rslave", "slave")))


@dataclass(frozen=True, slots=True)
class OciCli:
    """A handler (see `Handler`) that calls `binary`.

    arguments: global ones; root: its state directory, None: below ours; own_cgroup: it makes the
    container's cgroup, else we do and start it in there; hidden: mounts of the node that it is not
    to see.
    """

    name: str
    binary: str
    arguments: tuple[str, ...] = ()
    root: Path | None = None
    own_cgroup: bool = True
    hidden: tuple[str, ...] = ()

    @property
    def shim(self) -> bool:
        return False

    def prepare(self, ground: Ground, work: Work) -> Prepared:
        compiled = plan.container(work.spec, work.rootfs, cgroups=ground.cgroups)
        root = self.root or ground.state / "handlers" / self.name
        place = ground.state / "bundle"
        for directory in (root, place):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = OciPlan(
            binary=self.binary,
            arguments=self.arguments,
            root=os.fspath(root),
            place=os.fspath(place),
            rootfs=compiled.root,
            config=json.dumps(config(work.spec, place)),
            lookup=compiled.process.lookup,
            hidden=self.hidden,
        )
        note(work.directory / STATES_FILE, f"{root}/{work.container_id}")
        begin = announce if self.own_cgroup else prepare
        return begin(ground.place, work.directory, work.spec, made)


def config(spec: Spec, place: Path) -> Mapping[str, object]:
    """config.json of a spec, but for what only the monitor's child knows. Pure.

    place: where the bundle is to be mounted.
    """
    mounts = tuple(_mount(mount, place) for mount in spec.mounts)
    root = replace(spec.root, path=os.fspath(place / ROOTFS))
    namespaces = tuple(map(_namespace, spec.linux.namespaces))
    linux_part = replace(spec.linux, namespaces=namespaces, net_devices={})  # they are there
    final = replace(spec, mounts=mounts, root=root, linux=linux_part)
    written = cast(dict[str, object], encode(final, camel=True))
    written = cast(dict[str, object], _said(written))
    written["ociVersion"] = _VERSION
    cast(dict[str, object], written["process"]).pop("userLookup", None)
    linux = cast(dict[str, object], written["linux"])
    if not spec.linux.rootfs_propagation:
        linux["rootfsPropagation"] = _propagation(spec.mounts)
    return written


def _namespace(item: Namespace) -> Namespace:
    """The node's by its path: a binary runs in the pod's."""
    if item.path != NODE_NAMESPACE:
        return item
    return Namespace(item.type, node_path("net" if item.type == "network" else item.type))


def _said(value: object) -> object:
    """Without empty texts, which to a binary are not the same as nothing."""
    if isinstance(value, list):
        return [_said(item) for item in value]
    if isinstance(value, dict):
        return {
            key: item if key in _THEIR_OWN else _said(item)
            for key, item in value.items()
            if item != ""
        }
    return value


def _mount(mount: Mount, place: Path) -> Mount:
    if mount.type == "tmpfs" and mount.source == plan.POD_SHM:
        source = os.fspath(place / SHM)
        return Mount(mount.destination, "bind", source, (*_SHM_OPTIONS, *mount.options))
    return mount


def _propagation(mounts: Iterable[Mount]) -> str:
    """What the container's root must be for the propagation of its mounts to mean anything."""
    options = {option for mount in mounts for option in mount.options}
    for name, any_of in _PROPAGATION:
        if options.intersection(any_of):
            return name
    return "rprivate"
