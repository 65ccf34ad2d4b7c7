"""Devices by name as what a container gets: device nodes are looked up on the node. Blocks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cri.cdi import registry
from cri.cdi.registry import Found, Unresolvable
from cri.cdi.spec import DeviceNode, Edits, Hook, Mount, NetDevice, parse_name
from cri.errors import InvalidRequest, NotImplementedYet, WrongState
from runtime import spec as oci


@dataclass(frozen=True, slots=True)
class Request:
    """A device's full name, and the field of the request that has it."""

    name: str
    field: str


@dataclass(frozen=True, slots=True)
class Injection:
    """What all devices of a container bring, in their order."""

    env: tuple[str, ...] = ()
    devices: tuple[oci.Device, ...] = ()
    device_rules: tuple[oci.DeviceRule, ...] = ()
    mounts: tuple[oci.Mount, ...] = ()
    additional_gids: tuple[int, ...] = ()
    hooks: tuple[Hook, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()


NOTHING = Injection()


def resolve(wanted: Sequence[Request], directories: Sequence[str]) -> Injection:
    """What the devices bring; one that is asked for twice counts once, where it stands first.

    Raises InvalidRequest for a name that no file has, WrongState for a device that its file
    describes and the node doesn't have, NotImplementedYet for what we can't give.
    """
    if not wanted:
        return NOTHING
    known = registry.read(directories)
    found: dict[str, Found] = {}
    for request in wanted:
        try:
            found.setdefault(request.name, known.find(*parse_name(request.name)))
        except (ValueError, Unresolvable) as error:
            raise InvalidRequest(request.field, str(error)) from error
    return _collected([(f"CDI device {name} ({one.file})", one) for name, one in found.items()])


def _collected(found: Sequence[tuple[str, Found]]) -> Injection:
    env: list[str] = []
    devices: dict[str, oci.Device] = {}
    rules: list[oci.DeviceRule] = []
    mounts: dict[str, oci.Mount] = {}
    gids: list[int] = []
    hooks: list[Hook] = []
    net_devices: list[NetDevice] = []
    for who, edits in _edits(found):
        if edits.unsupported:
            raise NotImplementedYet(f"{who}: it asks for {', '.join(edits.unsupported)}")
        env += edits.env
        for node in edits.device_nodes:
            device = _device(node, who)
            devices[device.path] = device
            rules += _rules(device, node.permissions)
        for mount in edits.mounts:
            mounts.pop(mount.container_path, None)
            mounts[mount.container_path] = _mount(mount, who)
        gids += (gid for gid in edits.additional_gids if gid)
        hooks += edits.hooks
        net_devices += edits.net_devices
    return Injection(
        env=tuple(env),
        devices=tuple(devices.values()),
        device_rules=tuple(dict.fromkeys(rules)),
        mounts=tuple(mounts.values()),
        additional_gids=tuple(dict.fromkeys(gids)),
        hooks=tuple(hooks),
        net_devices=tuple(dict.fromkeys(net_devices)),
    )


def _edits(found: Sequence[tuple[str, Found]]) -> Iterator[tuple[str, Edits]]:
    """The file's own before those of its first device, and each once."""
    seen: set[str] = set()
    for who, one in found:
        if one.file not in seen:
            seen.add(one.file)
            yield who, one.spec.container_edits
        yield who, one.device.container_edits


def _device(node: DeviceNode, who: str) -> oci.Device:
    """What the file leaves out is what the node's own device node is."""
    kind, major, minor = node.type, node.major, node.minor
    if not kind or (kind != "p" and not major):
        path = node.host_path or node.path
        try:
            status = os.stat(path)
        except OSError as error:
            raise WrongState(f"{who}: the device node {path!r}: {error.strerror}") from error
        actual = _kind(status.st_mode)
        if not actual:
            raise WrongState(f"{who}: {path!r} is no device")
        if kind and kind != actual and not (kind == "u" and actual == "c"):
            raise WrongState(f"{who}: {path!r} is of type {actual!r}, not {kind!r}")
        kind = actual
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return oci.Device(
        path=node.path,
        type=kind,
        major=major,
        minor=minor,
        file_mode=node.file_mode,
        uid=node.uid or 0,
        gid=node.gid or 0,
    )


def _kind(mode: int) -> str:
    if stat.S_ISCHR(mode):
        return "c"
    if stat.S_ISBLK(mode):
        return "b"
    return "p" if stat.S_ISFIFO(mode) else ""


def _rules(device: oci.Device, access: str) -> Iterator[oci.DeviceRule]:
    kind = "c" if device.type == "u" else device.type
    if kind in "bc":
        yield oci.DeviceRule(
            allow=True, type=kind, major=device.major, minor=device.minor, access=access or "rwm"
        )


def _mount(mount: Mount, who: str) -> oci.Mount:
    """A bind mount unless it says otherwise; its source is never made."""
    kind = "bind" if mount.type in ("", "none") else mount.type
    if kind == "bind":
        try:
            os.stat(mount.host_path)
        except OSError as error:
            text = f"{who}: what it mounts, {mount.host_path!r}: {error.strerror}"
            raise WrongState(text) from error
    options = mount.options
    if kind == "bind" and not {"bind", "rbind"} & set(options):
        options = ("rbind", *options)
    return oci.Mount(
        destination=mount.container_path, type=kind, source=mount.host_path, options=options
    )
