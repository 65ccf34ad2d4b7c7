"""Changing the limits of a living cgroup: all of them, or none.

The kernel takes one file at a time, and may refuse any. So every file is read before the first one
is written, and what was written before a refusal gets its old value back. Memory comes last: a
limit that was raised and lowered again could cost a process its life.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from runtime.cgroup.errors import CgroupRefused, MemoryInUse
from runtime.cgroup.limits import Limits, Setting
from runtime.cgroup.tree import Cgroup

_MEMORY_LIMITS = ("memory.limit_in_bytes", "memory.max")
_NO_LIMIT_OF_A_DEVICE = {  # files which list only the devices that have a limit
    "io.max": "rbps=max wbps=max riops=max wiops=max",
    "io.latency": "target=0",
    "io.weight": "default",
    "io.bfq.weight": "default",
}


@dataclass(frozen=True, slots=True)
class Changed:
    """notes: a sentence for each optional limit that this kernel can't set; before: what
    `put_back` needs."""

    notes: tuple[str, ...]
    before: tuple[Setting, ...]


def change(cgroup: Cgroup, limits: Limits) -> Changed:
    """Sets the limits, devices excepted. Raises MemoryInUse, CgroupRefused: nothing has changed.

    What could not be put back after a refusal is noted on the error.
    """
    for setting in limits.settings:
        _refuse_below_use(cgroup, setting)
    before: list[Setting] = []
    for setting in limits.settings:
        before += _now(cgroup, setting)
    notes: list[str] = []
    try:
        for group in _by_controller(limits.settings):
            notes += cgroup.update(group)
    except CgroupRefused as error:
        for failure in put_back(cgroup, before):
            error.add_note(failure)
        raise
    return Changed(tuple(notes), tuple(before))


def put_back(cgroup: Cgroup, before: Iterable[Setting]) -> list[str]:
    """Writes old values again; answers what went wrong, for every controller is tried."""
    failures = []
    for group in _by_controller(tuple(before)):
        try:
            cgroup.update(group)
        except CgroupRefused as error:
            failures.append(f"not put back: {error}")
    return failures


def _by_controller(settings: tuple[Setting, ...]) -> Iterator[Limits]:
    """One after the other, memory last; within one the order stays."""
    names = dict.fromkeys(setting.controller for setting in settings)
    for name in sorted(names, key=lambda name: name == "memory"):
        yield Limits(tuple(setting for setting in settings if setting.controller == name))


def _now(cgroup: Cgroup, setting: Setting) -> list[Setting]:
    """The setting as it is now; [] if the kernel has no such file."""
    content = cgroup.value(setting)
    if content is None:
        return []
    return [replace(setting, value=_line(setting, content))]


def _line(setting: Setting, content: str) -> str:
    """Of a file of several lines, the one that the setting replaces. An empty one needs a line's
    end, without which nothing would be written."""
    if setting.file == "memory.oom_control":  # "oom_kill_disable 0", and what can't be written
        return content.split()[1]
    key = setting.value.partition(" ")[0]
    for line in content.splitlines():
        if line.partition(" ")[0] == key:
            return line
    nothing = _NO_LIMIT_OF_A_DEVICE.get(setting.file)
    if nothing is not None and ":" in key:
        return f"{key} {nothing}"
    return content or "\n"


def _refuse_below_use(cgroup: Cgroup, setting: Setting) -> None:
    """On v2 the kernel would take such a limit, and kill for it."""
    if setting.file not in _MEMORY_LIMITS or not setting.value.isdecimal():
        return
    limit, used = int(setting.value), cgroup.memory_held()
    if limit < used:
        raise MemoryInUse(setting.field, limit, used)
