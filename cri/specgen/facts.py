"""What only the node can tell about a request. I/O on paths that the user gave: it may hang.

Run `gather` in a thread that may be abandoned (cri.rpc.worker), never on the loop.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cri import blockio
from cri.cdi import injection
from cri.errors import ImageVolumeFailed, InvalidRequest, WrongState
from cri.specgen import apparmor, cdi, mounts, security, selinux
from cri.specgen.subject import Facts
from runtime.apparmor import profiles
from runtime.errors import InvalidSpec
from runtime.init import capabilities, rootfs
from runtime.seccomp import profile
from runtime.selinux import node
from runtime.spec import BlockIo, Device, DeviceRule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cri.api import api_pb2 as api
    from runtime.spec import Seccomp

_PERMISSIONS = frozenset("rwm")
_OWN_DIRECTORIES = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"))
_OWN_NODES = frozenset(("console", "ptmx"))
MOST_LOOKED_AT = 16384  # files below a directory of devices; a large node's /dev has some thousand
_SYS_RESOURCE = 1 << capabilities.NAMES.index("CAP_SYS_RESOURCE")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look up and prepare.

    log_directory: made if it isn't there, "" for none; default_profile: a seccomp profile that the
    node's configuration puts in place of the built-in one; apparmor_profile: what RuntimeDefault
    is; cdi_spec_dirs: where devices that are asked for by name are described; blockio_class: see
    `classes.asked`; labels: SELinux's, which the policy has to know; progress: the paths that were
    looked at, the last one is where it hangs, if it does; node_devices: a privileged container gets
    all of them.
    """

    config: api.ContainerConfig
    log_directory: str = ""
    default_profile: str = ""
    node_devices: bool = True
    apparmor_profile: str = profiles.DEFAULT
    cdi_spec_dirs: tuple[str, ...] = ()
    labels: selinux.Labels = selinux.NONE
    blockio_class: tuple[str, str] | None = None
    blockio_config_file: str = ""
    image_layers: tuple[tuple[str, ...], ...] = ()
    progress: list[str] = field(default_factory=list)


def gather(wanted: Wanted) -> Facts:
    """Makes missing mount sources and the log directory. Blocks. Raises InvalidRequest."""
    config = wanted.config
    for index, mount in enumerate(mounts.requested(config)):
        if mount.type == mounts.IMAGE:
            continue
        wanted.progress.append(mount.source)
        _ensure_source(mount.source, f"config.mounts[{index}].host_path")
    _check_sub_paths(config, wanted.image_layers)
    if wanted.log_directory:
        wanted.progress.append(wanted.log_directory)
        _make_directory(wanted.log_directory, "sandbox_config.log_directory, config.log_path")
    wanted.progress.extend(device.host_path for device in config.devices)
    devices, rules = _requested_devices(config)
    if config.linux.security_context.privileged and wanted.node_devices:
        devices = (*_node_devices(), *devices)
    named = cdi.requested(config)
    if named:
        wanted.progress.extend(wanted.cdi_spec_dirs)
    return Facts(
        devices=devices,
        device_rules=rules,
        seccomp=_seccomp(config, wanted.default_profile),
        lowest_oom_score=lowest_oom_score(),
        block_io=_block_io(wanted),
        injection=injection.resolve(named, wanted.cdi_spec_dirs),
        apparmor_profile=_apparmor(config, wanted.apparmor_profile),
        image_layers=wanted.image_layers,
        labels=_labels(wanted.labels),
    )


def _block_io(wanted: Wanted) -> BlockIo | None:
    if wanted.blockio_class is None:
        return None
    name, field = wanted.blockio_class
    wanted.progress.append(wanted.blockio_config_file)
    return blockio.resolve(name, field, wanted.blockio_config_file)


def _check_sub_paths(
    config: api.ContainerConfig, image_layers: tuple[tuple[str, ...], ...]
) -> None:
    asked = [mount for mount in config.mounts if mount.image.image]
    for mount, layers in zip(asked, image_layers, strict=True):
        if mount.image_sub_path and not rootfs.has_path(layers, mount.image_sub_path):
            raise ImageVolumeFailed(
                f"image {mount.image.user_specified_image or mount.image.image} has no "
                f"{mount.image_sub_path!r}, which was to be mounted at {mount.container_path}"
            )


@functools.cache
def lowest_oom_score() -> int:
    """Without CAP_SYS_RESOURCE nobody may go below his own."""
    if capabilities.held().permitted & _SYS_RESOURCE:
        return -1000
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


def _ensure_source(path: str, field: str) -> None:
    """A source that is not there is made, as a directory: hostPath volumes rely on it."""
    try:
        os.stat(path)
    except FileNotFoundError:
        _make_directory(path, field)
    except OSError as error:
        raise InvalidRequest(field, f"{path!r} can't be used: {error.strerror}") from error


def _make_directory(path: str, field: str) -> None:
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except FileExistsError as error:
        if os.path.islink(path):
            text = f"{path!r} is a symbolic link to {os.readlink(path)!r}, which is not there"
        else:
            text = f"{path!r} is not a directory"
        raise InvalidRequest(field, text) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InvalidRequest(
            field, f"{path!r} is not there and can't be made: {error.strerror}"
        ) from error


def _seccomp(config: api.ContainerConfig, default_profile: str) -> Seccomp | None:
    """The profile of the file that applies; None: no file does."""
    context = config.linux.security_context
    choice = security.seccomp_choice(context)
    path = default_profile if choice is security.DEFAULT else choice.path
    if not path:
        return None
    try:
        return profile.load(path, security.capabilities(context).bounding)
    except InvalidSpec as error:
        if choice is security.DEFAULT:
            raise WrongState(
                "the configuration's seccomp_profile (that of the pod's runtime handler, or of "
                f"[containers]): {error}"
            ) from error
        field = "config.linux.security_context.seccomp.localhost_ref"
        raise InvalidRequest(field, str(error)) from error


def _apparmor(config: api.ContainerConfig, default: str) -> str:
    choice = apparmor.choice(config.linux.security_context)
    if not choice.wanted:
        return ""
    try:
        loaded = profiles.loaded() if profiles.enabled() else None
    except OSError as error:
        raise WrongState(f"the kernel's AppArmor profiles: {error}") from error
    return apparmor.profile(choice, default, loaded)


def _labels(labels: selinux.Labels) -> selinux.Labels:
    selinux.check_known(labels, node.knows)
    return labels


def _requested_devices(
    config: api.ContainerConfig,
) -> tuple[tuple[Device, ...], tuple[DeviceRule, ...]]:
    devices: list[Device] = []
    rules: list[DeviceRule] = []
    for index, wanted in enumerate(config.devices):
        field = f"config.devices[{index}]"
        access = wanted.permissions or "rwm"
        if not set(access) <= _PERMISSIONS:
            raise InvalidRequest(f"{field}.permissions", f"{access!r} is not made of r, w and m")
        found = list(_resolve(wanted.host_path, wanted.container_path or wanted.host_path, field))
        devices += found
        rules += (
            DeviceRule(
                allow=True, type=device.type, major=device.major, minor=device.minor, access=access
            )
            for device in found
            if device.type in "bc"
        )
    return tuple(devices), tuple(rules)


def _resolve(host_path: str, container_path: str, field: str) -> Iterator[Device]:
    """The device at a path, or all of a directory's, at the same places below container_path."""
    if "\0" in host_path:
        raise InvalidRequest(f"{field}.host_path", f"{host_path!r} contains a NUL byte")
    try:
        status = os.stat(host_path)
    except OSError as error:
        raise InvalidRequest(f"{field}.host_path", f"{host_path!r}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        try:
            for path, device in _walk(os.path.realpath(host_path), MOST_LOOKED_AT):
                yield _device(container_path.rstrip("/") + path, device)
        except _TooMany:
            text = f"{host_path!r} has more than {MOST_LOOKED_AT} files: name a directory below it"
            raise InvalidRequest(f"{field}.host_path", text) from None
        return
    if not _is_device(status):
        raise InvalidRequest(f"{field}.host_path", f"{host_path!r} is no device")
    yield _device(container_path, status)


def _node_devices() -> tuple[Device, ...]:
    return tuple(_device(f"/dev{path}", status) for path, status in _walk("/dev"))


class _TooMany(Exception):
    """A directory with more files than we look at."""


def _walk(directory: str, most: int = sys.maxsize) -> Iterator[tuple[str, os.stat_result]]:
    """All devices below a directory: their paths from it on, and their status. They may vanish."""
    looked_at = 0
    for parent, directories, files in os.walk(directory):
        looked_at += len(directories) + len(files)
        if looked_at > most:
            raise _TooMany
        directories[:] = sorted(name for name in directories if name not in _OWN_DIRECTORIES)
        for name in sorted(files):
            path = os.path.join(parent, name)
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            if _is_device(status) and name not in _OWN_NODES:
                yield path.removeprefix(directory), status


def _is_device(status: os.stat_result) -> bool:
    mode = status.st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode)


def _device(path: str, status: os.stat_result) -> Device:
    mode = status.st_mode
    kind = "c" if stat.S_ISCHR(mode) else "b" if stat.S_ISBLK(mode) else "p"
    return Device(
        path=path,
        type=kind,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )
