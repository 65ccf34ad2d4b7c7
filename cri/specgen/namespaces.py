"""Which namespaces a container shares, and with whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from runtime.init.values import UserMap
from runtime.spec import IdMapping, Namespace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cri.specgen.subject import Subject

_FIELD = "config.linux.security_context.namespace_options"
MOST_ID = 2**32 - 2
_OWN = (Namespace("mount"),)
_POD_NETWORK = (Namespace("network"), Namespace("uts"))  # the node's network has the node's name
_PID = {
    "pod": (Namespace("pid", "pod"),),
    "own": (Namespace("pid"),),
    "target": (Namespace("pid"),),
    "node": (),
}


@dataclass(frozen=True, slots=True)
class PidMode:
    """kind: own, pod, node or target; target: the id of the container whose namespace it joins."""

    kind: str
    target: str = ""


def namespaces(subject: Subject) -> tuple[Namespace, ...]:
    """The container's. Without a path: new, or the pod's where the runtime has one."""
    pod = subject.sandbox.linux.security_context.namespace_options
    _check_shared(subject, pod)
    found = [*_OWN, *_PID[pid(subject.config, subject.sandbox).kind]]
    if pod.network != api.NODE:
        found += _POD_NETWORK
    if pod.ipc != api.NODE:
        found.append(Namespace("ipc"))
    if user_map(pod, _FIELD) is not None:
        found.append(Namespace("user"))
    if not subject.security.privileged:  # a privileged one sees the node's hierarchy
        found.append(Namespace("cgroup"))
    return tuple(found)


def pid(config: api.ContainerConfig, sandbox: api.PodSandboxConfig) -> PidMode:
    """Whose processes the container sees. A container that says nothing follows its pod."""
    pod = sandbox.linux.security_context.namespace_options.pid
    security = config.linux.security_context
    wanted = security.namespace_options.pid if security.HasField("namespace_options") else pod
    if wanted == api.TARGET:
        target = security.namespace_options.target_id
        if not target:
            raise InvalidRequest(f"{_FIELD}.target_id", "empty, though pid is TARGET")
        return PidMode("target", target)
    if wanted == api.NODE:
        return PidMode("node")
    if wanted == api.CONTAINER:
        return PidMode("own")
    if pod == api.CONTAINER:
        raise InvalidRequest(
            f"{_FIELD}.pid",
            "POD, but the sandbox was made with pid CONTAINER and has no processes in common: "
            "make it with pid POD, or ask for CONTAINER",
        )
    return PidMode("node" if pod == api.NODE else "pod")


def user_map(options: api.NamespaceOption, field: str) -> UserMap | None:
    """A pod's user namespace; None: the node's. Raises InvalidRequest. See KEP-127.

    kubelet gives ranges of 65536 ids each; a range that the kernel can map is all that we need.
    """
    wanted = options.userns_options
    if not options.HasField("userns_options") or wanted.mode == api.NODE:
        return None
    field = f"{field}.userns_options"
    if wanted.mode != api.POD:
        name = api.NamespaceMode.Name(wanted.mode)
        raise InvalidRequest(f"{field}.mode", f"{name}: only POD and NODE exist")
    users, groups = _range(wanted.uids, f"{field}.uids"), _range(wanted.gids, f"{field}.gids")
    return UserMap(users.host_id, groups.host_id, users.length, groups.length)


def _range(mappings: Sequence[api.IDMapping], field: str) -> api.IDMapping:
    if len(mappings) != 1:
        raise InvalidRequest(field, f"{len(mappings)} ranges: there must be one")
    (only,) = mappings
    if only.container_id != 0:
        raise InvalidRequest(
            f"{field}[0].container_id", f"{only.container_id}: the container's root must be mapped"
        )
    if only.host_id == 0:
        raise InvalidRequest(f"{field}[0].host_id", "0: the node's root may not be among them")
    if only.length < 1 or only.host_id + only.length - 1 > MOST_ID:
        raise InvalidRequest(
            f"{field}[0].length", f"{only.length} ids from {only.host_id} on end beyond {MOST_ID}"
        )
    return only


def id_mappings(
    options: api.NamespaceOption,
) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
    """The same for a spec: of users, of groups."""
    pod = user_map(options, _FIELD)
    if pod is None:
        return (), ()
    return (IdMapping(0, pod.uid, pod.uids),), (IdMapping(0, pod.gid, pod.gids),)


def _check_shared(subject: Subject, pod: api.NamespaceOption) -> None:
    """What all containers of a pod have in common can't differ in one of them."""
    own = subject.security.namespace_options
    if own.HasField("userns_options") and user_map(own, _FIELD) != user_map(pod, _FIELD):
        raise InvalidRequest(
            f"{_FIELD}.userns_options", "not the sandbox's: all of a pod have one user namespace"
        )
    for name, wanted, has in (("network", own.network, pod.network), ("ipc", own.ipc, pod.ipc)):
        if wanted == api.NODE and has != api.NODE:
            raise InvalidRequest(
                f"{_FIELD}.{name}",
                f"NODE, but the sandbox has a namespace of its own: make it with {name} NODE",
            )
