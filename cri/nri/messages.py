"""Our records as NRI's messages. Pure.

What a plugin learns of a container is its spec, as the runtime will execute it, with CRI's labels,
annotations and state.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.nri import resources
from cri.nri.api import nri_pb2 as nri
from cri.nri.owners import removed
from cri.store.container import ContainerState
from runtime.spec import NEW_NAMESPACE, NODE_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from cri.store.container import Container
    from cri.store.sandbox import Sandbox
    from runtime.spec import Device, Process, Resources, Seccomp, Spec

_STATES = {
    ContainerState.CREATED: nri.CONTAINER_CREATED,
    ContainerState.RUNNING: nri.CONTAINER_RUNNING,
    ContainerState.EXITED: nri.CONTAINER_STOPPED,
    ContainerState.UNKNOWN: nri.CONTAINER_UNKNOWN,
}
_HOOKS = {
    "prestart": "prestart",
    "createRuntime": "create_runtime",
    "createContainer": "create_container",
    "startContainer": "start_container",
    "poststart": "poststart",
    "poststop": "poststop",
}
_SECCOMP = {
    api.SecurityProfile.RuntimeDefault: nri.SecurityProfile.RUNTIME_DEFAULT,
    api.SecurityProfile.Unconfined: nri.SecurityProfile.UNCONFINED,
    api.SecurityProfile.Localhost: nri.SecurityProfile.LOCALHOST,
}
_MEMORY = ("limit", "reservation", "swap", "disable_oom_killer", "kernel_tcp", "swappiness")
_CPU = ("shares", "quota", "period", "realtime_runtime", "realtime_period")


def pod(sandbox: Sandbox) -> nri.PodSandbox:
    """A sandbox."""
    metadata, config, status = sandbox.metadata, sandbox.config, sandbox.status
    message = nri.PodSandbox(
        id=sandbox.id,
        name=config.metadata.name,
        uid=config.metadata.uid,
        namespace=config.metadata.namespace,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=metadata.runtime_handler,
        pid=status.pid,
        ips=status.ips,
    )
    message.linux.cgroup_parent = config.linux.cgroup_parent
    message.linux.cgroups_path = metadata.cgroup_parent
    if config.linux.HasField("overhead"):
        message.linux.pod_overhead.CopyFrom(resources.from_cri(config.linux.overhead))
    if config.linux.HasField("resources"):
        message.linux.pod_resources.CopyFrom(resources.from_cri(config.linux.resources))
    if metadata.netns_path:
        message.linux.namespaces.add(type="network", path=metadata.netns_path)
    return message


def container(
    record: Container, spec: Spec | None, adjustment: nri.ContainerAdjustment
) -> nri.Container:
    """spec: None where it isn't known any more; adjustment: what plugins have made of it."""
    metadata, config, status = record.metadata, record.config, record.status
    message = nri.Container(
        id=record.id,
        pod_sandbox_id=metadata.sandbox_id,
        name=config.metadata.name,
        state=_STATES[status.state],
        labels=config.labels,
        annotations=config.annotations,
        pid=status.pid,
        created_at=metadata.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        status_reason=_text(status.reason),
        status_message=_text(status.message),
        image=nri.Image(name=metadata.image_ref, config_digest=metadata.image_id),
    )
    message.CDI_devices.extend(nri.CDIDevice(name=one.name) for one in config.CDI_devices)
    if config.linux.security_context.HasField("seccomp"):
        profile = config.linux.security_context.seccomp
        message.linux.seccomp_profile.profile_type = _SECCOMP[profile.profile_type]
        message.linux.seccomp_profile.localhost_ref = profile.localhost_ref
    if spec is not None:
        _add_spec(message, spec)
        _add_user(message.user, spec)
    else:
        message.linux.resources.CopyFrom(resources.from_cri(config.linux.resources))
    if status.started_at:
        message.user.CopyFrom(
            nri.User(uid=status.uid, gid=status.gid, additional_gids=status.groups)
        )
    _adjust(message.annotations, adjustment.annotations)
    message.CDI_devices.extend(adjustment.CDI_devices)
    return message


def _adjust(target: MutableMapping[str, str], wanted: MutableMapping[str, str]) -> None:
    for key, value in wanted.items():
        if removed(key):
            target.pop(removed(key), None)
        else:
            target[key] = value


def _add_spec(message: nri.Container, spec: Spec) -> None:
    process, linux, told = spec.process, spec.linux, message.linux
    for key, value in spec.annotations.items():
        message.annotations[key] = value
    message.args.extend(map(_text, process.args))
    message.env.extend(map(_text, process.env))
    for mount in spec.mounts:
        message.mounts.add(
            destination=mount.destination,
            type=mount.type,
            source=_text(mount.source),
            options=mount.options,
        )
    _add_hooks(message.hooks, spec)
    for limit in process.rlimits:
        message.rlimits.add(type=limit.type, hard=limit.hard, soft=limit.soft)
    for namespace in linux.namespaces:
        if namespace.path != NODE_NAMESPACE:
            path = "" if namespace.path == NEW_NAMESPACE else namespace.path
            told.namespaces.add(type=namespace.type, path=path)
    told.devices.extend(map(_device, linux.devices))
    told.resources.CopyFrom(_resources(linux.resources))
    if process.oom_score_adj is not None:
        told.oom_score_adj.value = process.oom_score_adj
    _add_scheduling(told, process)
    told.cgroups_path = linux.cgroups_path
    for name, setting in linux.sysctl.items():
        told.sysctl[name] = setting
    for name, device in linux.net_devices.items():
        told.net_devices[name].name = device.name
    if linux.seccomp is not None:
        told.seccomp_policy.CopyFrom(_seccomp(linux.seccomp))


def _add_user(told: nri.User, spec: Spec) -> None:
    """Before it runs: as far as numbers say it. Names are known in the image alone."""
    lookup = spec.process.user_lookup
    if lookup is None:
        return
    user, _, group = lookup.user.partition(":")
    told.uid = int(user) if user.isdecimal() else 0
    told.gid = int(group) if group.isdecimal() else 0
    if lookup.group is not None:
        told.gid = lookup.group
    told.additional_gids.extend(lookup.supplemental)


def _add_scheduling(told: nri.LinuxContainer, process: Process) -> None:
    wanted, io_priority = process.scheduler, process.io_priority
    if io_priority is not None:
        fields = {"class": io_priority.io_class, "priority": io_priority.priority}
        told.io_priority.CopyFrom(nri.LinuxIOPriority(**fields))  # type: ignore[arg-type]  # `class`
    if wanted is not None:
        made = nri.LinuxScheduler(
            policy=wanted.policy,
            nice=wanted.nice,
            priority=wanted.priority,
            flags=wanted.flags,
            runtime=wanted.runtime,
            deadline=wanted.deadline,
            period=wanted.period,
        )
        told.scheduler.CopyFrom(made)


def _add_hooks(told: nri.Hooks, spec: Spec) -> None:
    for name, hooks in spec.hooks.items():
        for hook in hooks:
            made = getattr(told, _HOOKS[name]).add(path=hook.path, args=hook.args, env=hook.env)
            if hook.timeout is not None:
                made.timeout.value = hook.timeout


def _text(text: str) -> str:
    """What protobuf can carry: bytes that were no UTF-8 are told as such."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _device(device: Device) -> nri.LinuxDevice:
    told = nri.LinuxDevice(
        path=device.path, type=device.type, major=device.major, minor=device.minor
    )
    if device.file_mode is not None:
        told.file_mode.value = device.file_mode
    told.uid.value, told.gid.value = device.uid, device.gid
    return told


def _resources(given: Resources) -> nri.LinuxResources:
    told = nri.LinuxResources(unified=given.unified)
    for source, target, names in (
        (given.memory, told.memory, _MEMORY),
        (given.cpu, told.cpu, _CPU),
    ):
        for name in names:
            value = getattr(source, name, None)
            if value is not None:
                getattr(target, name).value = value
    if given.cpu is not None:
        told.cpu.cpus, told.cpu.mems = given.cpu.cpus, given.cpu.mems
    for page in given.hugepage_limits:
        told.hugepage_limits.add(page_size=page.page_size, limit=page.limit)
    if given.pids is not None:
        told.pids.limit = given.pids.limit
    for rule in given.devices:
        made = told.devices.add(allow=rule.allow, type=rule.type, access=rule.access)
        for name in ("major", "minor"):
            if getattr(rule, name) is not None:
                getattr(made, name).value = getattr(rule, name)
    return told


@functools.lru_cache(maxsize=16)
def _seccomp(policy: Seccomp) -> nri.LinuxSeccomp:
    """A handful of profiles serves all containers, and is some hundred names long."""
    told = nri.LinuxSeccomp(
        default_action=policy.default_action,
        architectures=policy.architectures,
        flags=policy.flags,
        listener_path=policy.listener_path,
        listener_metadata=policy.listener_metadata,
    )
    if policy.default_errno_ret is not None:
        told.default_errno.value = policy.default_errno_ret
    for rule in policy.syscalls:
        made = told.syscalls.add(names=rule.names, action=rule.action)
        if rule.errno_ret is not None:
            made.errno_ret.value = rule.errno_ret
        for argument in rule.args:
            made.args.add(
                index=argument.index,
                value=argument.value,
                value_two=argument.value_two,
                op=argument.op,
            )
    return told
