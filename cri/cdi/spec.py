"""A CDI file's text as values, or a ValueError that says what in it can't be. Pure."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cri.cdi.document import loaded
from runtime.codec import decode
from runtime.errors import InvalidSpec
from runtime.init import options

# What each version of the specification brought; a file that uses it must say that version.
VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
HOOK_NAMES = frozenset(
    ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
)
MAX_ID = 2**32 - 2
# Known to CDI, and not to us: a device that wants one is refused, the others of its file are not.
UNSUPPORTED = ("intelRdt",)

_VENDOR = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_CLASS = _VENDOR
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_TYPES = ("", "b", "c", "u", "p")


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """path: in the container; host_path: on the node, if that is another."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = "rwm"
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """timeout: seconds."""

    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class NetDevice:
    """An interface of the node. name: in the container."""

    host_interface_name: str
    name: str


@dataclass(frozen=True, slots=True)
class Edits:
    """What a container gets. unsupported: the names of what we can't give."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()
    additional_gids: tuple[int, ...] = ()
    unsupported: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    container_edits: Edits = Edits()


@dataclass(frozen=True, slots=True)
class Spec:
    """kind: vendor/class; container_edits: what every device of the file brings."""

    cdi_version: str
    kind: str
    devices: tuple[Device, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    container_edits: Edits = Edits()

    def edits(self) -> Iterator[tuple[str, Edits]]:
        """All of the file's, with the place of each."""
        yield "containerEdits", self.container_edits
        for index, device in enumerate(self.devices):
            yield f"devices[{index}].containerEdits", device.container_edits


def parse_name(text: str) -> tuple[str, str]:
    """`vendor.com/class=name` as (kind, name). Raises ValueError."""
    kind, equals, name = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no device's name, such as vendor.com/class=name")
    check_kind(kind)
    _check_name(name)
    return kind, name


def check_kind(kind: str) -> None:
    """Raises ValueError for what is not vendor/class."""
    vendor, slash, klass = kind.partition("/")
    if not slash or not _VENDOR.fullmatch(vendor) or not _CLASS.fullmatch(klass):
        raise ValueError(
            f"{kind!r} is no kind, such as vendor.com/class: letters, digits, '_', '-' and '.', "
            "a letter first"
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no device's name: letters and digits, and in between '_', '-', '.', ':'"
        )


def parse(text: bytes, *, yaml: bool) -> Spec:
    """The values of a file. Raises ValueError, which names the place in it."""
    data = loaded(text, yaml=yaml)
    _set_unsupported_aside(data)
    for problem in _unknown(Spec, data, ""):
        raise ValueError(problem)
    spec = decode(Spec, data, camel=True)
    check_kind(spec.kind)
    if not spec.devices:
        raise ValueError("devices: there is none")
    names: set[str] = set()
    for index, device in enumerate(spec.devices):
        _check_name(device.name)
        if device.name in names:
            raise ValueError(f"devices[{index}].name: {device.name!r} occurs twice")
        names.add(device.name)
    for place, edits in spec.edits():
        _check_edits(edits, place)
    _check_version(spec)
    return spec


def _set_unsupported_aside(data: object) -> None:
    """Their content is not looked at; that they are there is remembered in the edits."""
    devices = data.get("devices") if isinstance(data, dict) else None
    for owner in (data, *(devices if isinstance(devices, list) else ())):
        edits = owner.get("containerEdits") if isinstance(owner, dict) else None
        if isinstance(edits, dict):
            found = [name for name in UNSUPPORTED if edits.pop(name, None)]
            if found:
                edits["unsupported"] = found


def _unknown(cls: type, data: object, path: str) -> Iterator[str]:
    """Keys that CDI does not have: a misspelt one would be a device that is not there."""
    if not isinstance(data, dict):
        return  # decode says so, with the place
    hints = typing.get_type_hints(cls)
    known = {_key(item.name): hints[item.name] for item in dataclasses.fields(cls)}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in known:
            names = sorted(known.keys() - {"unsupported"})
            yield f"{where}: no such field: there are {', '.join(names)}"
            continue
        for inner in (known[key], *typing.get_args(known[key])):
            if dataclasses.is_dataclass(inner) and isinstance(inner, type):
                items = value if isinstance(value, list) else [value]
                for index, item in enumerate(items):
                    suffix = f"[{index}]" if isinstance(value, list) else ""
                    yield from _unknown(inner, item, where + suffix)


def _key(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _check_edits(edits: Edits, place: str) -> None:
    for index, variable in enumerate(edits.env):
        name, equals, _ = variable.partition("=")
        if not name or not equals or "\0" in variable:
            raise ValueError(f"{place}.env[{index}]: {variable!r} is not of the form NAME=value")
    for index, node in enumerate(edits.device_nodes):
        _check_node(node, f"{place}.deviceNodes[{index}]")
    for index, mount in enumerate(edits.mounts):
        _check_mount(mount, f"{place}.mounts[{index}]")
    for index, hook in enumerate(edits.hooks):
        _check_hook(hook, f"{place}.hooks[{index}]")
    for index, gid in enumerate(edits.additional_gids):
        if not 0 <= gid <= MAX_ID:
            raise ValueError(f"{place}.additionalGids[{index}]: {gid} is not in 0..{MAX_ID}")


def _check_node(node: DeviceNode, place: str) -> None:
    _check_path(node.path, f"{place}.path")
    if node.host_path:
        _check_path(node.host_path, f"{place}.hostPath")
    if node.type not in _TYPES:
        raise ValueError(f"{place}.type: {node.type!r} is none of b, c, u, p")
    if not 0 <= node.major < 2**12 or not 0 <= node.minor < 2**20:
        raise ValueError(f"{place}: {node.major}:{node.minor} is out of the kernel's range")
    if not set(node.permissions) <= set("rwm"):
        raise ValueError(f"{place}.permissions: {node.permissions!r} is not made of r, w and m")
    if node.file_mode is not None and not 0 <= node.file_mode <= 0o7777:
        raise ValueError(f"{place}.fileMode: {node.file_mode} is not in 0..{0o7777} (octal 7777)")
    for name, number in (("uid", node.uid), ("gid", node.gid)):
        if number is not None and not 0 <= number <= MAX_ID:
            raise ValueError(f"{place}.{name}: {number} is not in 0..{MAX_ID}")


def _check_mount(mount: Mount, place: str) -> None:
    if not mount.host_path or "\0" in mount.host_path:
        raise ValueError(f"{place}.hostPath: {mount.host_path!r} is no path")
    _check_path(mount.container_path, f"{place}.containerPath")
    try:
        found = options.parse(mount.options, f"{place}.options")
    except InvalidSpec as error:
        raise ValueError(str(error)) from None
    if found.bind or mount.type in ("", "none", "bind"):
        _check_path(mount.host_path, f"{place}.hostPath")


def _check_hook(hook: Hook, place: str) -> None:
    if hook.hook_name not in HOOK_NAMES:
        known = ", ".join(sorted(HOOK_NAMES))
        raise ValueError(f"{place}.hookName: {hook.hook_name!r} is none of {known}")
    _check_path(hook.path, f"{place}.path")
    for name, texts in (("args", hook.args), ("env", hook.env)):
        for index, text in enumerate(texts):
            if "\0" in text or (name == "env" and text.find("=") < 1):
                raise ValueError(f"{place}.{name}[{index}]: {text!r} can't be given to a program")
    if hook.timeout is not None and hook.timeout <= 0:
        raise ValueError(f"{place}.timeout: {hook.timeout} is not above 0 (seconds)")


def _check_path(path: str, place: str) -> None:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{place}: {path!r} is not an absolute path")


def _check_version(spec: Spec) -> None:
    version = spec.cdi_version.removeprefix("v")
    if version not in VERSIONS:
        raise ValueError(
            f"cdiVersion: {spec.cdi_version!r} is none that we know: {', '.join(VERSIONS)}"
        )
    for needed, uses, what in reversed(_USES):
        if VERSIONS.index(version) < VERSIONS.index(needed) and uses(spec):
            raise ValueError(f"cdiVersion: is {version}, but {what} came with {needed}: say that")


def _any_edits(test: typing.Callable[[Edits], bool]) -> typing.Callable[[Spec], bool]:
    return lambda spec: any(test(edits) for _, edits in spec.edits())


_USES: tuple[tuple[str, typing.Callable[[Spec], bool], str], ...] = (
    ("0.4.0", _any_edits(lambda edits: any(item.type for item in edits.mounts)), "a mount's type"),
    (
        "0.5.0",
        _any_edits(lambda edits: any(item.host_path for item in edits.device_nodes)),
        "a device node's hostPath",
    ),
    (
        "0.5.0",
        lambda spec: any(device.name[0].isdigit() for device in spec.devices),
        "a device's name that begins with a digit",
    ),
    (
        "0.6.0",
        lambda spec: bool(spec.annotations or any(item.annotations for item in spec.devices)),
        "annotations",
    ),
    ("0.6.0", lambda spec: "." in spec.kind.partition("/")[2], "a class with a dot"),
    ("0.7.0", _any_edits(lambda edits: bool(edits.additional_gids)), "additionalGids"),
    ("0.7.0", _any_edits(lambda edits: "intelRdt" in edits.unsupported), "intelRdt"),
    ("1.1.0", _any_edits(lambda edits: bool(edits.net_devices)), "netDevices"),
)
