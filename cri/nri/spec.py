"""An adjustment applied to a spec. Pure.

What can't be honoured is refused, with the plugin that wants it and the field's name.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from cri.errors import AdjustmentImpossible
from cri.nri import refusals
from cri.nri.api import nri_pb2 as nri
from cri.nri.owners import removed
from cri.nri.refusals import Owner
from cri.specgen import net_devices
from runtime.errors import InvalidSpec
from runtime.init import options
from runtime.init.namespace_plan import sysctls
from runtime.spec import (
    NEW_NAMESPACE,
    NODE_NAMESPACE,
    Cpu,
    Device,
    DeviceRule,
    Hook,
    HugepageLimit,
    IoPriority,
    Linux,
    Memory,
    MemoryPolicy,
    Mount,
    Namespace,
    NetDevice,
    Pids,
    Process,
    Resources,
    Rlimit,
    Scheduler,
    Seccomp,
    SeccompArgument,
    SeccompSyscalls,
    Spec,
)

_SHARED = ("network", "ipc", "uts")  # by all containers of a pod


class _Enum(Protocol):
    def Name(self, number: int) -> str: ...  # noqa: N802 - protobuf's

    def values(self) -> list[int]: ...


def applied(spec: Spec, wanted: nri.ContainerAdjustment, owner: Owner) -> Spec:
    """The spec with all of the adjustment but CDI devices and classes of block I/O, for which the
    node has to be asked. Raises AdjustmentImpossible.
    """
    refusals.check(wanted, owner)
    return replace(
        spec,
        annotations=_mapped(spec.annotations, wanted.annotations),
        process=_process(spec.process, wanted),
        mounts=_mounts(spec.mounts, wanted.mounts, owner),
        hooks=_hooks(spec.hooks, wanted.hooks),
        linux=_linux(spec.linux, wanted.linux, owner),
    )


def _mapped(old: Mapping[str, str], wanted: Mapping[str, str]) -> Mapping[str, str]:
    gone = {removed(key) for key in wanted}
    kept = {key: value for key, value in old.items() if key not in gone}
    return kept | {key: value for key, value in wanted.items() if not removed(key)}


def _process(process: Process, wanted: nri.ContainerAdjustment) -> Process:
    limits = {limit.type: limit for limit in process.rlimits}
    for limit in wanted.rlimits:
        if removed(limit.type):
            limits.pop(removed(limit.type), None)
        else:
            limits[limit.type] = Rlimit(limit.type, limit.soft, limit.hard)
    score = process.oom_score_adj
    if wanted.linux.HasField("oom_score_adj"):
        score = wanted.linux.oom_score_adj.value
    return replace(
        process,
        args=tuple(wanted.args) or process.args,
        env=tuple(_env(process.env, wanted.env)),
        rlimits=tuple(limits.values()),
        oom_score_adj=score,
        scheduler=_scheduler(wanted.linux) or process.scheduler,
        io_priority=_io_priority(wanted.linux) or process.io_priority,
    )


def _scheduler(wanted: nri.LinuxContainerAdjustment) -> Scheduler | None:
    asked = wanted.scheduler
    if asked.policy == nri.SCHED_NONE:
        return None
    return Scheduler(
        policy=_name(nri.LinuxSchedulerPolicy, asked.policy),
        nice=asked.nice,
        priority=asked.priority,
        flags=tuple(_name(nri.LinuxSchedulerFlag, flag) for flag in asked.flags),
        runtime=asked.runtime,
        deadline=asked.deadline,
        period=asked.period,
    )


def _io_priority(wanted: nri.LinuxContainerAdjustment) -> IoPriority | None:
    asked = wanted.io_priority
    io_class: nri.IOPrioClass = getattr(asked, "class")  # which Python can't say otherwise
    if io_class == nri.IOPRIO_CLASS_NONE:
        return None
    return IoPriority(_name(nri.IOPrioClass, io_class), asked.priority)


def _name(kind: _Enum, value: int) -> str:
    """A number that has no name is its own: whoever compiles the spec refuses it."""
    return kind.Name(value) if value in kind.values() else str(value)


def _memory_policy(asked: nri.LinuxMemoryPolicy) -> MemoryPolicy:
    flags = tuple(_name(nri.MpolFlag, flag) for flag in asked.flags)
    return MemoryPolicy(_name(nri.MpolMode, asked.mode), asked.nodes, flags)


def _env(old: Iterable[str], wanted: Iterable[nri.KeyValue]) -> Iterator[str]:
    """What is replaced stays in its place."""
    new = {pair.key: pair.value for pair in wanted}
    for item in old:
        name = item.partition("=")[0]
        if name in new:
            yield f"{name}={new.pop(name)}"
        elif f"-{name}" not in new:
            yield item
    for name, value in new.items():
        if not removed(name):
            yield f"{name}={value}"


def _mounts(old: Iterable[Mount], wanted: Iterable[nri.Mount], owner: Owner) -> tuple[Mount, ...]:
    asked = list(wanted)
    if not asked:
        return tuple(old)
    touched = {_tidy(removed(mount.destination) or mount.destination) for mount in asked}
    made = [mount for mount in old if _tidy(mount.destination) not in touched]
    for mount in asked:
        if removed(mount.destination):
            continue
        try:
            options.parse(mount.options, f"mounts[{mount.destination}].options")
        except InvalidSpec as error:
            plugin = owner(nri.Mounts, mount.destination)
            raise AdjustmentImpossible(plugin or "(unknown)", "mounts", str(error)) from None
        made.append(
            Mount(mount.destination, mount.type or "bind", mount.source, tuple(mount.options))
        )
    made.sort(key=lambda mount: _tidy(mount.destination).count("/"))
    return tuple(made)


def _tidy(path: str) -> str:
    return posixpath.normpath("/" + path).replace("//", "/", 1)


_HOOK_NAMES = {
    "prestart": "prestart",
    "create_runtime": "createRuntime",
    "create_container": "createContainer",
    "start_container": "startContainer",
    "poststart": "poststart",
    "poststop": "poststop",
}


def _hooks(
    old: Mapping[str, tuple[Hook, ...]], wanted: nri.Hooks
) -> Mapping[str, tuple[Hook, ...]]:
    made = dict(old)
    for name, oci_name in _HOOK_NAMES.items():
        new = tuple(
            Hook(
                hook.path,
                tuple(hook.args),
                tuple(hook.env),
                hook.timeout.value if hook.HasField("timeout") else None,
            )
            for hook in getattr(wanted, name)
        )
        if new:
            made[oci_name] = (*made.get(oci_name, ()), *new)
    return made


def _linux(linux: Linux, wanted: nri.LinuxContainerAdjustment, owner: Owner) -> Linux:
    touched = {removed(device.path) or device.path for device in wanted.devices}
    kept = (device for device in linux.devices if device.path not in touched)
    new = [device for device in wanted.devices if not removed(device.path)]
    seccomp = linux.seccomp
    if wanted.HasField("seccomp_policy"):
        seccomp = _seccomp(wanted.seccomp_policy)
    policy = linux.memory_policy
    if wanted.HasField("memory_policy"):
        policy = _memory_policy(wanted.memory_policy)
    made = replace(
        linux,
        sysctl=_mapped(linux.sysctl, wanted.sysctl),
        memory_policy=policy,
        devices=(*kept, *(_device(device, owner) for device in new)),
        namespaces=_namespaces(linux.namespaces, wanted.namespaces),
        resources=_resources(linux.resources, wanted.resources, new),
        seccomp=seccomp,
    )
    for name, value in wanted.sysctl.items():
        if not removed(name):
            _check_sysctl(replace(made, sysctl={name: value}), name, owner)
    made = replace(made, net_devices=_net_devices(linux.net_devices, wanted.net_devices))
    names = net_devices.names(made)
    if problem := net_devices.problem(names, made.namespaces):
        first = next(iter(names))
        plugin = owner(nri.LinuxNetDevices, first) or "(unknown)"
        raise AdjustmentImpossible(plugin, f"linux.net_devices[{first}]", problem)
    return made


def _net_devices(
    old: Mapping[str, NetDevice], wanted: Mapping[str, nri.LinuxNetDevice]
) -> Mapping[str, NetDevice]:
    gone = {removed(host) for host in wanted}
    kept = {host: device for host, device in old.items() if host not in gone}
    new = {host: NetDevice(one.name) for host, one in wanted.items() if not removed(host)}
    return kept | new


def _namespaces(
    old: Iterable[Namespace], wanted: Iterable[nri.LinuxNamespace]
) -> tuple[Namespace, ...]:
    """What is taken away is the node's then, and what is added is new, or joined by its path."""
    made = {one.type: one for one in old}
    for one in wanted:
        kind = removed(one.type)
        if not kind:
            new = NEW_NAMESPACE if one.type in _SHARED else ""
            made[one.type] = Namespace(one.type, one.path or new)
        elif kind in _SHARED and kind in made:
            made[kind] = Namespace(kind, NODE_NAMESPACE)
        else:
            made.pop(kind, None)
    return tuple(made.values())


def _check_sysctl(linux: Linux, name: str, owner: Owner) -> None:
    try:
        sysctls(linux)
    except InvalidSpec as error:
        plugin = owner(nri.Sysctl, name) or "(unknown)"
        raise AdjustmentImpossible(plugin, error.path, error.text) from None


def _device(device: nri.LinuxDevice, owner: Owner) -> Device:
    if device.type not in ("c", "b", "u", "p"):
        plugin = owner(nri.Devices, device.path) or "(unknown)"
        text = f"{device.type!r} is none of c, b, u, p"
        raise AdjustmentImpossible(plugin, f"linux.devices[{device.path}].type", text)
    return Device(
        path=device.path,
        type=device.type,
        major=device.major,
        minor=device.minor,
        file_mode=device.file_mode.value if device.HasField("file_mode") else None,
        uid=device.uid.value,
        gid=device.gid.value,
    )


def _resources(
    old: Resources, wanted: nri.LinuxResources, devices: Iterable[nri.LinuxDevice]
) -> Resources:
    rules = [
        DeviceRule(allow=True, type=_kind(device.type), major=device.major, minor=device.minor)
        for device in devices
        if device.type != "p"
    ]
    rules += (
        DeviceRule(
            allow=rule.allow,
            type=rule.type or "a",
            major=rule.major.value if rule.HasField("major") else None,
            minor=rule.minor.value if rule.HasField("minor") else None,
            access=rule.access or "rwm",
        )
        for rule in wanted.devices
    )
    pages = {page.page_size: page.limit for page in old.hugepage_limits}
    pages |= {page.page_size: page.limit for page in wanted.hugepage_limits}
    return replace(
        old,
        devices=(*old.devices, *rules),
        memory=_memory(old.memory, wanted.memory),
        cpu=_cpu(old.cpu, wanted.cpu),
        pids=Pids(wanted.pids.limit) if wanted.HasField("pids") else old.pids,
        hugepage_limits=tuple(HugepageLimit(*page) for page in pages.items()),
        unified={**old.unified, **wanted.unified},
    )


def changes(wanted: nri.LinuxResources) -> Resources:
    """What CRI has no words for of an update."""
    return _resources(Resources(), wanted, ())


def _kind(device_type: str) -> str:
    return "c" if device_type == "u" else device_type


def _memory(old: Memory | None, wanted: nri.LinuxMemory) -> Memory | None:
    """A new limit without a word on swap allows none, as CRI's does."""
    made = old or Memory()
    if wanted.HasField("limit"):
        made = replace(made, limit=wanted.limit.value, swap=wanted.limit.value)
    if wanted.HasField("swap"):
        made = replace(made, swap=wanted.swap.value)
    if wanted.HasField("reservation"):
        made = replace(made, reservation=wanted.reservation.value)
    if wanted.HasField("disable_oom_killer"):
        made = replace(made, disable_oom_killer=wanted.disable_oom_killer.value)
    if wanted.HasField("kernel_tcp"):
        made = replace(made, kernel_tcp=wanted.kernel_tcp.value)
    if wanted.HasField("swappiness"):
        made = replace(made, swappiness=wanted.swappiness.value)
    return None if made == Memory() else made


def _cpu(old: Cpu | None, wanted: nri.LinuxCPU) -> Cpu | None:
    made = old or Cpu()
    made = Cpu(
        shares=wanted.shares.value if wanted.HasField("shares") else made.shares,
        quota=wanted.quota.value if wanted.HasField("quota") else made.quota,
        period=wanted.period.value if wanted.HasField("period") else made.period,
        cpus=wanted.cpus or made.cpus,
        mems=wanted.mems or made.mems,
        realtime_runtime=(
            wanted.realtime_runtime.value
            if wanted.HasField("realtime_runtime")
            else made.realtime_runtime
        ),
        realtime_period=(
            wanted.realtime_period.value
            if wanted.HasField("realtime_period")
            else made.realtime_period
        ),
    )
    return None if made == Cpu() else made


def _seccomp(policy: nri.LinuxSeccomp) -> Seccomp:
    return Seccomp(
        default_action=policy.default_action,
        default_errno_ret=policy.default_errno.value if policy.HasField("default_errno") else None,
        architectures=tuple(policy.architectures),
        flags=tuple(policy.flags),
        syscalls=tuple(
            SeccompSyscalls(
                names=tuple(rule.names),
                action=rule.action,
                errno_ret=rule.errno_ret.value if rule.HasField("errno_ret") else None,
                args=tuple(
                    SeccompArgument(one.index, one.value, one.op, one.value_two)
                    for one in rule.args
                ),
            )
            for rule in policy.syscalls
        ),
        listener_path=policy.listener_path,
        listener_metadata=policy.listener_metadata,
    )
