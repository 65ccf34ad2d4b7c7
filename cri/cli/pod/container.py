"""A manifest's container as CRI's ContainerConfig: what kubelet would send. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.cli.pod import quantity
from cri.cli.pod.sandbox import GRACE, Identity, namespaces, seccomp

if TYPE_CHECKING:
    from cri.cli.pod.manifest import Fields
    from cri.cli.pod.volumes import Volume

CPU_PERIOD = 100_000
"""Microseconds; kubelet's period for a CPU quota."""

# https://kubernetes.io/docs/concepts/security/pod-security-standards/: procMount Default
MASKED = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PROPAGATION = {
    "": api.PROPAGATION_PRIVATE,
    "None": api.PROPAGATION_PRIVATE,
    "HostToContainer": api.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": api.PROPAGATION_BIDIRECTIONAL,
}


class Impossible(Exception):
    """The container can't be run as asked; the message says which field and why."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container's configuration depends on beside its own fields."""

    pod: Fields
    who: Identity
    volumes: Mapping[str, Volume]
    ip: str
    hosts_file: str = ""
    """Path of an /etc/hosts for the pod; empty leaves it to the daemon."""


def config(fields: Fields, image: api.Image, around: Surroundings) -> api.ContainerConfig:
    """The container that `fields` describes. Impossible says why it can't be."""
    spec = around.pod.inner("spec")
    environment = variables(fields.each("env"), around)
    made = api.ContainerConfig(
        metadata=api.ContainerMetadata(name=fields.text("name")),
        image=api.ImageSpec(image=image.id, user_specified_image=fields.text("image")),
        command=[expand(word, environment) for word in fields.texts("command")],
        args=[expand(word, environment) for word in fields.texts("args")],
        working_dir=fields.text("workingDir"),
        envs=[api.KeyValue(key=k, value=v.encode()) for k, v in environment.items()],
        mounts=_mounts(fields, around),
        labels={**around.who.labels, "io.kubernetes.container.name": fields.text("name")},
        annotations={GRACE: str(spec.number("terminationGracePeriodSeconds", 30))},
        log_path=f"{fields.text('name')}/0.log",
        stdin=fields.flag("stdin"),
        stdin_once=fields.flag("stdinOnce"),
        tty=fields.flag("tty"),
        stop_signal=_stop_signal(fields),
    )
    made.linux.resources.CopyFrom(resources(fields.inner("resources")))
    made.linux.security_context.CopyFrom(_security(fields, image, spec))
    return made


def variables(items: list[Fields], around: Surroundings) -> dict[str, str]:
    """The container's environment; `$(NAME)` in a value means an earlier variable."""
    found: dict[str, str] = {}
    for item in items:
        source = item.inner("valueFrom").inner("fieldRef")
        if "fieldPath" in source:
            found[item.text("name")] = _pod_field(source.text("fieldPath"), around)
        elif "valueFrom" not in item:
            found[item.text("name")] = expand(item.text("value"), found)
    return found


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value, `$$` a dollar; an unknown name stays as it is."""

    def one(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return values.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^()]+)\)", one, text)


def _pod_field(path: str, around: Surroundings) -> str:
    metadata, spec = around.pod.inner("metadata"), around.pod.inner("spec")
    if found := re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path):
        return metadata.table(found[1]).get(found[2], "")
    known = {
        "metadata.name": around.who.name,
        "metadata.namespace": around.who.namespace,
        "metadata.uid": around.who.uid,
        "status.podIP": around.ip,
        "status.podIPs": around.ip,
        "spec.serviceAccountName": spec.text("serviceAccountName", "default"),
    }
    if path not in known:
        raise Impossible(
            f"fieldRef {path}: only {', '.join(known)}, labels and annotations are known"
        )
    return known[path]


def _mounts(fields: Fields, around: Surroundings) -> list[api.Mount]:
    made = [_mount(mount, fields, around) for mount in fields.each("volumeMounts")]
    if around.hosts_file and all(mount.container_path != "/etc/hosts" for mount in made):
        made.append(api.Mount(container_path="/etc/hosts", host_path=around.hosts_file))
    return made


def _mount(mount: Fields, fields: Fields, around: Surroundings) -> api.Mount:
    name, where = mount.text("name"), fields.text("name")
    if name not in around.volumes:
        have = ", ".join(around.volumes) or "none"
        raise Impossible(f"container {where} mounts volume {name}, the pod has: {have}")
    propagation = mount.text("mountPropagation")
    if propagation not in PROPAGATION:
        raise Impossible(f"container {where}: mountPropagation {propagation!r} is unknown")
    return api.Mount(
        container_path=mount.text("mountPath"),
        host_path=str(around.volumes[name].inside(_sub_path(mount, fields, around))),
        readonly=mount.flag("readOnly"),
        recursive_read_only=mount.text("recursiveReadOnly") == "Enabled",
        propagation=PROPAGATION[propagation],
    )


def _sub_path(mount: Fields, fields: Fields, around: Surroundings) -> str:
    if "subPathExpr" in mount:
        return expand(mount.text("subPathExpr"), variables(fields.each("env"), around))
    return mount.text("subPath")


def resources(fields: Fields) -> api.LinuxContainerResources:
    """Limits and requests as cgroup figures, by kubelet's rules."""
    limits, requests = fields.table("limits"), fields.table("requests")
    made = api.LinuxContainerResources()
    share = requests.get("cpu") or limits.get("cpu")
    made.cpu_shares = max(2, quantity.milli(share) * 1024 // 1000) if share else 2
    if "cpu" in limits:
        made.cpu_period = CPU_PERIOD
        made.cpu_quota = max(1000, quantity.milli(limits["cpu"]) * CPU_PERIOD // 1000)
    if "memory" in limits:
        made.memory_limit_in_bytes = quantity.whole(limits["memory"])
    for name, value in limits.items():
        if name.startswith("hugepages-"):
            size = name.removeprefix("hugepages-").replace("i", "") + "B"
            made.hugepage_limits.add(page_size=size, limit=quantity.whole(value))
    made.oom_score_adj = _oom_score(limits, requests)
    return made


def _oom_score(limits: Mapping[str, str], requests: Mapping[str, str]) -> int:
    """Who is killed first when memory runs out: those who asked for nothing."""
    if not limits and not requests:
        return 1000
    memory = requests.get("memory") or limits.get("memory")
    guaranteed = {"cpu", "memory"} <= limits.keys() and all(
        quantity.parse(requests.get(name, limits[name])) == quantity.parse(limits[name])
        for name in ("cpu", "memory")
    )
    if guaranteed:
        return -997
    node_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(999, max(3, 1000 - 1000 * (quantity.whole(memory) if memory else 0) // node_bytes))


def _security(fields: Fields, image: api.Image, spec: Fields) -> api.LinuxContainerSecurityContext:
    own, pods = fields.inner("securityContext"), spec.inner("securityContext")
    made = api.LinuxContainerSecurityContext(
        privileged=own.flag("privileged"),
        readonly_rootfs=own.flag("readOnlyRootFilesystem"),
        no_new_privs=not own.flag("allowPrivilegeEscalation", default=True),
        namespace_options=namespaces(spec),
        supplemental_groups=pods.numbers("supplementalGroups"),
        supplemental_groups_policy=pods.text("supplementalGroupsPolicy", "Merge"),
        seccomp=seccomp(own.inner("seccompProfile"))
        if "seccompProfile" in own
        else seccomp(pods.inner("seccompProfile")),
    )
    capabilities = own.inner("capabilities")
    made.capabilities.add_capabilities.extend(capabilities.texts("add"))
    made.capabilities.drop_capabilities.extend(capabilities.texts("drop"))
    if own.text("procMount", "Default") == "Default" and not made.privileged:
        made.masked_paths.extend(MASKED)
        made.readonly_paths.extend(READ_ONLY)
    if "fsGroup" in pods:
        made.supplemental_groups.append(pods.number("fsGroup"))
    _user(made, own, pods, image)
    return made


def _user(
    made: api.LinuxContainerSecurityContext, own: Fields, pods: Fields, image: api.Image
) -> None:
    chosen = own if "runAsUser" in own else pods
    if "runAsUser" in chosen:
        made.run_as_user.value = chosen.number("runAsUser")
    elif image.username:
        made.run_as_username = image.username
    else:
        made.run_as_user.value = image.uid.value
    chosen = own if "runAsGroup" in own else pods
    if "runAsGroup" in chosen:
        made.run_as_group.value = chosen.number("runAsGroup")
    chosen = own if "runAsNonRoot" in own else pods
    if not chosen.flag("runAsNonRoot"):
        return
    if made.run_as_username:
        raise Impossible(
            f"runAsNonRoot: the image's user is a name ({image.username}), which may be root's;"
            " give a number as runAsUser"
        )
    if made.run_as_user.value == 0:
        raise Impossible("runAsNonRoot is asked, yet the container would run as root")


def _stop_signal(fields: Fields) -> str:
    name = fields.inner("lifecycle").text("stopSignal") if "lifecycle" in fields else ""
    signal = f"SIGNAL_{name.replace('+', 'PLUS').replace('-', 'MINUS')}"
    if not name:
        return "SIGNAL_RUNTIME_DEFAULT"
    if signal not in api.Signal.keys():  # noqa: SIM118  # not a dict
        raise Impossible(f"lifecycle.stopSignal {name!r} is no signal's name")
    return signal
