"""A spec and a root file system in, a plan out. Pure: no I/O, no root, golden-tested.

Whatever can be wrong with a spec is found here, in the daemon, as InvalidSpec with the path of the
offending field; what is left for init is what only the kernel knows.
"""

from __future__ import annotations

import functools
import os
import posixpath
import stat
from collections.abc import Iterable
from dataclasses import replace

from runtime.errors import InvalidSpec
from runtime.init import options
from runtime.init.cgroups import CgroupLayout, cgroup_mount
from runtime.init.namespace_plan import own_namespaces, sysctls
from runtime.init.process_plan import SPEC_ALLOW, checked_id, checked_text, process
from runtime.init.values import (
    Attributes,
    CgroupMount,
    ContainerPlan,
    Dev,
    MountKind,
    MountStep,
    Node,
    Origin,
    RootPlan,
    UserMap,
)
from runtime.linux.mount import MountAttr, Propagation
from runtime.spec import Device, IdMapping, Mount, Rootfs, Spec

__all__ = ["POD_SHM", "container", "process"]

POD_SHM = "pod-shm"  # the source of the mount that means the pod's shared memory

_DEVICE_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_DEFAULT_NODES = tuple(
    Node(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for path, major, minor in (
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/tty", 5, 0),
    )
)
_DEV_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
_PTMX_LINK = ("ptmx", "pts/ptmx")

# The files of /proc that a tool such as lxcfs may cover (CVE-2019-16884: nothing else).
_PROC_FILES = frozenset(
    (
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
    )
)
_RDONLY = int(MountAttr.RDONLY)
_PRIVATE = int(Propagation.PRIVATE)
_LONGEST_VALUE = 255  # fsconfig(2) refuses longer ones
_ORIGINS = {int(Propagation.SLAVE): Origin.SLAVE, int(Propagation.SHARED): Origin.SHARED}
_REAL_DIRECTORY = frozenset(("proc", "sysfs"))
_WITHOUT_SOURCE = frozenset(("proc", "sysfs", "tmpfs", "devpts", "mqueue"))
_Maps = tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]


def container(
    spec: Spec,
    rootfs: Rootfs,
    *,
    seccomp_program: bytes = b"",
    seccomp_flags: int = SPEC_ALLOW,
    cgroups: CgroupLayout | None = None,
) -> ContainerPlan:
    """What init does for this container.

    rootfs: see Rootfs; without lower directories spec.root.path (absolute) is bound.
    seccomp_program, seccomp_flags: for seccomp(2); `runtime.seccomp` answers both.
    cgroups: the node's hierarchies, for a mount of type cgroup; None: cgroup v2.
    Raises InvalidSpec.
    """
    first = process(
        spec, spec.process.args, seccomp_program=seccomp_program, seccomp_flags=seccomp_flags
    )
    mounts: list[MountStep] = []
    cgroup = None
    for index, mount in enumerate(spec.mounts):
        path = f"mounts[{index}]"
        if mount.type in ("cgroup", "cgroup2"):
            cgroup = _cgroup_mount(mount, path, cgroups or CgroupLayout())
        else:
            step = _usual_step if mount.type in _WITHOUT_SOURCE else _mount_step
            mounts.append(step(mount, path, _maps(spec), first.user_map))
    if first.terminal and not any(step.source == "devpts" for step in mounts):
        raise InvalidSpec("process.terminal", "a terminal needs a mount of type devpts at /dev/pts")
    return ContainerPlan(
        process=first,
        root=_root(spec, rootfs),
        mounts=tuple(mounts),
        dev=_dev(spec.linux.devices, mounts, first.user_map),
        cgroup_mount=cgroup,
        cgroup_namespace=any(item.type == "cgroup" for item in spec.linux.namespaces),
        namespaces=own_namespaces(spec.linux),
        sysctls=sysctls(spec.linux),
        own_ipc_namespace=any(item.type == "ipc" for item in spec.linux.namespaces),
        masked_paths=_paths(spec.linux.masked_paths, "linux.maskedPaths"),
        readonly_paths=_paths(spec.linux.readonly_paths, "linux.readonlyPaths"),
    )


def _paths(paths: Iterable[str], path: str) -> tuple[str, ...]:
    unique = dict.fromkeys(paths)
    for item in unique:
        if not item.startswith("/"):
            raise InvalidSpec(path, f'"{item}" is not absolute')
        checked_text(item, path)
    return tuple(unique)


def _root(spec: Spec, rootfs: Rootfs) -> RootPlan:
    propagation = options.PROPAGATIONS.get(spec.linux.rootfs_propagation or "private")
    if propagation is None:
        raise InvalidSpec(
            "linux.rootfsPropagation", f'"{spec.linux.rootfs_propagation}" is no propagation'
        )
    if rootfs.lower:
        if bool(rootfs.upper) != bool(rootfs.work):
            raise InvalidSpec("rootfs", "upper and work come together or not at all")
        directories = (*rootfs.lower, *filter(None, (rootfs.upper, rootfs.work)))
        _paths(directories, "rootfs")
    else:
        _paths((spec.root.path,), "root.path")
    return RootPlan(
        lower=rootfs.lower,
        upper=rootfs.upper,
        work=rootfs.work,
        path="" if rootfs.lower else spec.root.path,
        readonly=spec.root.readonly,
        propagation=propagation[0],
        propagation_recursive=propagation[1],
        mount_label=_mount_label(spec),
    )


def _mount_label(spec: Spec) -> str:
    label = checked_text(spec.linux.mount_label or "", "linux.mountLabel")
    if len(label.encode()) > _LONGEST_VALUE or '"' in label:
        raise InvalidSpec(
            "linux.mountLabel",
            f"{label[:80]!r} can't be a label: the longest has "
            f"{_LONGEST_VALUE} bytes, and none has a quotation mark",
        )
    return label


def _maps(spec: Spec) -> _Maps:
    return spec.linux.uid_mappings, spec.linux.gid_mappings


def _mount_step(mount: Mount, path: str, maps: _Maps, user_map: UserMap | None) -> MountStep:
    found = options.parse(mount.options, f"{path}.options")
    destination = _destination(mount.destination, f"{path}.destination")
    bind = found.bind or mount.type in ("bind", "none", "")
    if destination.startswith("/proc/") and not (bind and destination in _PROC_FILES):
        raise InvalidSpec(
            f"{path}.destination", f'"{destination}": nothing may cover part of /proc'
        )
    if destination == "/proc" and not bind and mount.type != "proc":
        raise InvalidSpec(f"{path}.destination", "only procfs may be mounted at /proc")
    step = MountStep(
        kind=MountKind.BIND,
        destination=destination,
        attributes=found.attributes,
        tree=found.tree,
        propagation=found.propagation,
        propagation_recursive=found.propagation_recursive,
        inside_proc=destination in _PROC_FILES,
    )
    if mount.layers:
        return _image(step, mount, path, mapped=user_map is not None)
    if bind:
        return _bind(step, mount, path, found, mapped=_is_mapped(mount, path, maps, user_map))
    if mount.uid_mappings or mount.gid_mappings:
        raise InvalidSpec(f"{path}.uidMappings", "only a bind mount can have its ids mapped")
    return _new(step, mount, path, _mapped(found.parameters, user_map))


_usual_step = functools.lru_cache(maxsize=128)(_mount_step)
"""For mounts that are the same in most containers: /proc, /dev and so on."""


def _image(step: MountStep, mount: Mount, path: str, *, mapped: bool) -> MountStep:
    if step.inside_proc:
        raise InvalidSpec(f"{path}.destination", "no image covers part of /proc")
    if len(mount.layers) < 2:
        raise InvalidSpec(f"{path}.layers", "only one: overlayfs wants an empty one below it")
    return replace(
        step,
        kind=MountKind.IMAGE,
        source=checked_text(mount.source, f"{path}.source"),
        layers=_paths(mount.layers, f"{path}.layers"),
        attributes=Attributes(step.attributes.set | step.tree.set | _RDONLY),
        tree=Attributes(),
        propagation=_PRIVATE,
        mapped=mapped,
    )


def _is_mapped(mount: Mount, path: str, maps: _Maps, user_map: UserMap | None) -> bool:
    """Whether a bind mount's ids are mapped. They can be as the container's own, no other way."""
    if not mount.uid_mappings and not mount.gid_mappings:
        return False
    if user_map is None:
        raise InvalidSpec(f"{path}.uidMappings", "given, but there is no user namespace")
    if (mount.uid_mappings, mount.gid_mappings) != maps:
        raise InvalidSpec(
            f"{path}.uidMappings, gidMappings", "must be those of the container's user namespace"
        )
    return True


def _mapped(
    parameters: tuple[tuple[str, ...], ...], user_map: UserMap | None
) -> tuple[tuple[str, ...], ...]:
    """A new file system's parameters, with uid and gid (devpts, tmpfs) as the node knows them."""
    if user_map is None:
        return parameters
    firsts = {"uid": user_map.uid, "gid": user_map.gid}
    return tuple(
        (key, str(firsts[key] + int(value)))
        if key in firsts and value.isdecimal()
        else (key, value)
        for key, value in parameters
    )


def _destination(destination: str, path: str) -> str:
    """Absolute and tidy. A relative one counts from "/" (OCI since 1.2)."""
    tidy = posixpath.normpath("/" + checked_text(destination, path)).replace("//", "/", 1)
    if tidy == "/":
        raise InvalidSpec(path, f'"{destination}" is the root itself')
    return tidy


def _bind(
    step: MountStep, mount: Mount, path: str, found: options.MountOptions, *, mapped: bool
) -> MountStep:
    if not mount.source.startswith("/"):
        raise InvalidSpec(f"{path}.source", f'"{mount.source}" is not absolute')
    if found.parameters:
        key = found.parameters[0][0]
        raise InvalidSpec(f"{path}.options", f'"{key}" means nothing for a bind mount')
    private = not found.propagation
    return replace(
        step,
        source=checked_text(mount.source, f"{path}.source"),
        recursive=found.recursive,
        propagation=_PRIVATE if private else found.propagation,
        propagation_recursive=private or found.propagation_recursive,
        origin=_ORIGINS.get(found.propagation, Origin.ANY),
        mapped=mapped,
    )


def _new(
    step: MountStep, mount: Mount, path: str, parameters: tuple[tuple[str, ...], ...]
) -> MountStep:
    kind = MountKind.NEW
    if mount.type == "tmpfs" and mount.source == POD_SHM:
        kind = MountKind.SHM
    elif mount.type == "tmpfs" and step.destination == "/dev":
        kind = MountKind.DEV
    elif mount.type not in _WITHOUT_SOURCE and mount.source:
        parameters = (("source", checked_text(mount.source, f"{path}.source")), *parameters)
    for key, value in parameters:
        checked_text(key + value, f"{path}.options")
        if len(value.encode()) > _LONGEST_VALUE:
            text = f'the value of "{key}" has more than {_LONGEST_VALUE} bytes'
            raise InvalidSpec(f"{path}.options", text)
    bits = step.attributes.set
    late = mount.type == "tmpfs" and bool(bits & _RDONLY)
    return replace(
        step,
        kind=kind,
        source="" if kind is MountKind.SHM else checked_text(mount.type, f"{path}.type"),
        parameters=parameters,
        attributes=Attributes(bits & ~_RDONLY if late else bits, step.attributes.clear),
        late_readonly=late,
        real_directory=mount.type in _REAL_DIRECTORY,
    )


def _cgroup_mount(mount: Mount, path: str, layout: CgroupLayout) -> CgroupMount:
    found = options.parse(mount.options, f"{path}.options")
    destination = _destination(mount.destination, f"{path}.destination")
    return cgroup_mount(destination, found.attributes.set, layout)


def _dev(devices: Iterable[Device], mounts: Iterable[MountStep], user_map: UserMap | None) -> Dev:
    """The nodes of /dev: the default ones, and the spec's, which may replace those.

    In a user namespace the default ones are its root's. The others are the node's devices: who may
    open them, when their cgroup lets him, is decided by their owner and mode there.
    """
    steps = tuple(mounts)
    if any(step.destination == "/dev" and step.kind is MountKind.BIND for step in steps):
        return Dev(own=False)
    below = (posixpath.split(step.destination) for step in steps if step.kind is not MountKind.BIND)
    directories = tuple(dict.fromkeys(name for parent, name in below if parent == "/dev"))
    nodes = {node.path: node for node in _DEFAULT_NODES}
    if user_map is not None:
        for path, node in nodes.items():
            nodes[path] = replace(node, uid=user_map.uid, gid=user_map.gid)
    links = (*_DEV_LINKS, _PTMX_LINK) if "pts" in directories else _DEV_LINKS
    ours = {f"/dev/{name}" for name, _ in links} | {f"/dev/{name}" for name in directories}
    for index, device in enumerate(devices):
        node = _node(device, f"linux.devices[{index}]")
        if node.path not in ours:  # a node's /dev/ptmx, say, would be of the wrong devpts
            nodes[node.path] = node
    return Dev(
        own=any(step.kind is MountKind.DEV for step in steps),
        nodes=tuple(nodes.values()),
        directories=directories,
        links=links,
    )


def _node(device: Device, path: str) -> Node:
    if device.type not in _DEVICE_KINDS:
        raise InvalidSpec(f"{path}.type", f'"{device.type}" is none of c, b, u, p')
    if not 0 <= device.major < 2**12 or not 0 <= device.minor < 2**20:
        raise InvalidSpec(path, f"{device.major}:{device.minor} is out of the kernel's range")
    mode = 0o666 if device.file_mode is None else device.file_mode & 0o7777
    return Node(
        path=_destination(device.path, f"{path}.path"),
        mode=_DEVICE_KINDS[device.type] | mode,
        number=os.makedev(device.major, device.minor),
        uid=checked_id(device.uid, f"{path}.uid"),
        gid=checked_id(device.gid, f"{path}.gid"),
    )
