"""Cgroups as systemd's units: names, paths, and limits as properties. Pure.

    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice     kubelet's slice
        podwright-<container id>.scope/container                                a container
    /podwright.slice/podwright-<sandbox id>.slice/…                             of a pod without one

A slice's name says where it lies: a-b.slice in a.slice. systemd.slice(5), systemd.scope(5),
systemd.resource-control(5), org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from runtime.cgroup.limits import DEFAULT_PERIOD, Limits, Setting
from runtime.errors import InvalidSpec

Property = tuple[str, tuple[str, object]]  # name, (D-Bus signature, value)

PREFIX = "podwright-"
_INNER = "/container"
INFINITY = (1 << 64) - 1
_FIELD = "linux.cgroupsPath"
_MOST_NAME = 255  # UNIT_NAME_MAX
_SLICE = re.compile(r"[A-Za-z0-9:_.\\]+(-[A-Za-z0-9:_.\\]+)*\.slice")
_PERCENT = 10_000  # µs of CPU time per second: systemd writes quotas down as whole percent
_NUMBERS = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "cpu.weight": "CPUWeight",
    "pids.max": "TasksMax",
    "io.weight": "IOWeight",
}


def is_slice(path: str) -> bool:
    """Whether a pod's cgroup is systemd's."""
    return path.endswith(".slice")


def in_scope(path: str) -> bool:
    """Whether a container's cgroup is in one of systemd's."""
    return path.endswith(f".scope{_INNER}")


def scope_path(path: str) -> str:
    """The scope's cgroup, in which a container's is."""
    return path.removesuffix(_INNER)


def slice_path(name: str) -> str:
    """Where a slice lies: "a-b.slice" is /a.slice/a-b.slice. Raises ValueError."""
    if not _SLICE.fullmatch(name) or len(name) > _MOST_NAME:
        raise ValueError(f"{name!r} is no name of a slice, such as kubepods-burstable.slice")
    words = name.removesuffix(".slice").split("-")
    steps = ("-".join(words[: count + 1]) for count in range(len(words)))
    return "".join(f"/{step}.slice" for step in steps)


def pod_slice(parent: str, sandbox_id: str) -> str:
    """The path of a slice of our own for a pod. parent: a cgroup's path, or a slice's name or path.

    Raises ValueError.
    """
    name = parent.rstrip("/")
    if is_slice(name):
        stem = name.rpartition("/")[2].removesuffix(".slice")
    else:
        stem = name.strip("/").replace("/", "-")
    return slice_path(f"{stem}-{sandbox_id}.slice")


def container_cgroup(parent: str, container_id: str) -> str:
    """The path of a container's cgroup in its pod's."""
    if is_slice(parent):
        return in_scope_of(parent, scope_name(container_id))
    return f"{parent}/{container_id}"


def in_scope_of(parent: str, scope: str) -> str:
    """The path of a container's cgroup in a scope of its pod's slice."""
    return f"{parent}/{scope}{_INNER}"


def scope_name(container_id: str) -> str:
    return f"{PREFIX}{container_id}.scope"


def scope_and_slice(path: str) -> tuple[str, str]:
    """Names of the two units that a container's cgroup lies in. Raises InvalidSpec."""
    directory, _, scope = scope_path(path).rpartition("/")
    name = directory.rpartition("/")[2]
    try:
        lies = slice_path(name)
    except ValueError as error:
        text = f"{path!r}: {error}: with the systemd driver a container is a scope in a slice"
        raise InvalidSpec(_FIELD, f'{text}; or set cgroup.driver = "cgroupfs"') from None
    if directory != lies or not in_scope(path) or len(scope) > _MOST_NAME:
        raise InvalidSpec(_FIELD, f"{path!r} is no scope in {lies}, where systemd has {name}")
    return scope, name


def refuse_units(path: str) -> None:
    """Raises InvalidSpec for what only systemd may make."""
    for part in path.split("/"):
        if part.endswith((".slice", ".scope")):
            raise InvalidSpec(
                _FIELD,
                f"{path!r} names {part}, which is systemd's to make, and this runtime uses the "
                "cgroupfs driver: set cgroupDriver: cgroupfs in the kubelet's configuration",
            )


def scope_properties(slice_name: str, pid: int, limits: Limits) -> list[Property]:
    """What a container's scope is started with. pid: of a process to put into it."""
    return [
        ("Description", ("s", "a container of podwright")),
        ("Slice", ("s", slice_name)),
        ("PIDs", ("au", [pid])),
        # What is beneath is ours.
        ("Delegate", ("b", True)),
        # Not stopped beside us at a shutdown: kubelet, or the end of all, decides when pods end.
        ("DefaultDependencies", ("b", False)),
        # Forgotten when its last process has gone, whatever became of that.
        ("CollectMode", ("s", "inactive-or-failed")),
        ("CPUAccounting", ("b", True)),
        ("MemoryAccounting", ("b", True)),
        ("TasksAccounting", ("b", True)),
        ("IOAccounting", ("b", True)),
        # Without it systemd puts a limit of its own: 15 % of what the machine can have.
        ("TasksMax", ("t", INFINITY)),
        *properties(limits.settings),  # the last word counts
    ]


def properties(settings: Iterable[Setting]) -> list[Property]:
    """The settings that systemd has a property for, so that it has, and shows, the same limits."""
    values = {setting.file: setting.value.strip() for setting in settings}
    found = list(_numbers(values))
    found += _quota(values)
    found += _cpusets(values)
    return found


def _numbers(values: dict[str, str]) -> Iterator[Property]:
    for file, name in _NUMBERS.items():
        number = _number(values.get(file, ""))
        if number is not None:
            # the scope has the seat in it, too, when the container's first process is born
            yield name, ("t", max(number, 2) if name == "TasksMax" else number)


def _number(value: str) -> int | None:
    if value == "max":
        return INFINITY
    return int(value) if value.isdecimal() else None


def _quota(values: dict[str, str]) -> Iterator[Property]:
    quota, _, period = values.get("cpu.max", "").partition(" ")
    period = period or str(DEFAULT_PERIOD)
    number = _number(quota)
    if number is None or not period.isdecimal():
        return
    each_second = number
    if number != INFINITY:  # rather a little too much than too little
        each_second = math.ceil(number * 1_000_000 / int(period) / _PERCENT) * _PERCENT
    yield "CPUQuotaPerSecUSec", ("t", each_second)
    yield "CPUQuotaPeriodUSec", ("t", int(period))


def _cpusets(values: dict[str, str]) -> Iterator[Property]:
    for file, name in (("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")):
        if file in values:
            yield name, ("ay", _bits(values[file]))


def _bits(listed: str) -> bytes:
    """A list such as 0-3,8 or 0-7:1/2 as bits, the first byte's lowest for number 0."""
    bits = 0
    for part in filter(None, listed.split(",")):
        span, _, stride = part.partition(":")
        first, _, last = span.partition("-")
        used, _, group = stride.partition("/")
        for number in range(int(first), int(last or first) + 1):
            if not stride or (number - int(first)) % int(group) < int(used):
                bits |= 1 << number
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")
