"""Which namespaces a container shares, and with whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, NotImplementedYet
from runtime.spec import Namespace

if TYPE_CHECKING:
    from cri.specgen.subject import Subject

_FIELD = "config.linux.security_context.namespace_options"
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


def refuse_user_namespace(options: api.NamespaceOption, field: str) -> None:
    """User namespaces can't be had yet; some requests for them never can."""
    if not options.HasField("userns_options") or options.userns_options.mode == api.NODE:
        return
    if options.userns_options.mode != api.POD:
        name = api.NamespaceMode.Name(options.userns_options.mode)
        raise InvalidRequest(f"{field}.userns_options.mode", f"{name}: only POD and NODE exist")
    raise NotImplementedYet(
        f"{field}.userns_options: user namespaces are not supported yet (a pod gets here with "
        "hostUsers: false)"
    )


def _check_shared(subject: Subject, pod: api.NamespaceOption) -> None:
    """What all containers of a pod have in common can't differ in one of them."""
    own = subject.security.namespace_options
    refuse_user_namespace(own, _FIELD)
    for name, wanted, has in (("network", own.network, pod.network), ("ipc", own.ipc, pod.ipc)):
        if wanted == api.NODE and has != api.NODE:
            raise InvalidRequest(
                f"{_FIELD}.{name}",
                f"NODE, but the sandbox has a namespace of its own: make it with {name} NODE",
            )
