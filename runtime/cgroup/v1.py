"""cgroup v1: one directory in each mounted hierarchy, and the rules that each controller brings.

    /sys/fs/cgroup/cpu,cpuacct/kubepods/pod1/<container>      one mount may carry two controllers,
    /sys/fs/cgroup/memory/kubepods/pod1/<container>           each hierarchy has the same path
    /sys/fs/cgroup/systemd/kubepods/pod1/<container>          a named one has no controllers

A single-threaded process joins by writing "0" to `tasks` of each hierarchy: the kernel then takes
no lock against forks and exits; a write to cgroup.procs pays for one with an RCU grace period, 9 to
14 ms.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.cgroup import devices, files
from runtime.cgroup.errors import CgroupRefused
from runtime.cgroup.events import counter
from runtime.cgroup.limits import Limits, Setting
from runtime.cgroup.stats import MemoryUsage

# The controllers a container takes part in, where they are mounted; others stay as they are.
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
               "hugetlb", "name=systemd")  # fmt: skip
_REQUIRED = ("cpu", "memory", "devices", "pids")
_PAIRS = {  # settings that must keep an order between them which depends on the old values
    "memory.limit_in_bytes": "memory.memsw.limit_in_bytes",
    "cpu.cfs_period_us": "cpu.cfs_quota_us",
}
_FREEZE_SECONDS = 0.1
_CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")


@dataclass(frozen=True, slots=True)
class HierarchyV1:
    """mounts: controller (or name=…) -> mount point. Several may share one mount point."""

    mounts: Mapping[str, str]
    version: int = 1

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(self.mounts)

    @property
    def missing(self) -> tuple[str, ...]:
        """Controllers without which containers can't be limited."""
        return tuple(name for name in _REQUIRED if name not in self.mounts)

    def cgroup(self, path: str) -> CgroupV1:
        """The cgroup at an absolute path such as /kubepods/pod1/<id>. Raises InvalidSpec."""
        path = files.checked_path(path)
        directories = {name: mount + path for name, mount in self.mounts.items()}
        return CgroupV1(path, directories)


@dataclass(frozen=True, slots=True)
class CgroupV1:
    """A value: it says where a cgroup is, not that it exists. directories: by controller."""

    path: str
    directories: Mapping[str, str]

    def _unique(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.directories.values()))

    def exists(self) -> bool:
        return any(map(os.path.isdir, self._unique()))

    def ensure(self) -> None:
        """Makes the cgroup, unlimited, if it isn't there: for a pod's, which holds containers'."""
        for directory in self._unique():
            files.make(directory)
        if "cpuset" in self.directories:
            _inherit_cpuset(self.directories["cpuset"])

    def create(self, limits: Limits) -> tuple[str, ...]:
        """Makes the cgroup and its parents and sets the limits, all before a process joins.

        Answers a sentence for each optional limit that this kernel can't set. An empty cgroup
        that a crash left is replaced; CgroupBusy if processes live in it. On failure nothing of
        the cgroup stays (parents do).
        """
        with contextlib.ExitStack() as undo:
            for directory in self._unique():
                if not files.make(directory):
                    files.refuse_busy(directory)
                    files.remove(directory, deadline=0)
                    files.make(directory)
                undo.callback(files.remove, directory, deadline=0)
            wanted = {setting.file for setting in limits.settings}
            if "cpuset" in self.directories:
                _inherit_cpuset(self.directories["cpuset"], wanted)
            if "devices" in self.directories:
                _limit_devices(self.directories["devices"], devices.policy(limits.devices))
            notes = self.update(limits)
            undo.pop_all()
        return notes

    def update(self, limits: Limits) -> tuple[str, ...]:
        """Sets the limits, devices excepted, on a living cgroup. Answers as `create` does."""
        notes = []
        by_file = {setting.file: setting for setting in limits.settings}
        paired = set()
        for first, second in _PAIRS.items():
            if first in by_file and second in by_file:
                notes += self._apply_pair(by_file[first], by_file[second])
                paired |= {first, second}
        notes += [self._apply(one) for one in limits.settings if one.file not in paired]
        return tuple(dict.fromkeys(note for note in notes if note))  # some have two files

    def _apply_pair(self, first: Setting, second: Setting) -> list[str | None]:
        """Either order may be the one in which no moment breaks the kernel's rule."""
        try:
            return [self._apply(first), self._apply(second)]
        except CgroupRefused as error:
            if error.errno != errno.EINVAL:
                raise
        return [self._apply(second), self._apply(first)]

    def _apply(self, setting: Setting) -> str | None:
        directory = self.directories.get(setting.controller)
        if directory is not None:
            return files.apply(directory, setting)
        text = f"the cgroup controller {setting.controller} isn't mounted"
        if setting.optional:
            return f"{setting.field}: not limited, since {text}"
        missing = FileNotFoundError(errno.ENOENT, text)
        raise files.refused(setting.file, setting.value, missing, field=setting.field)

    def attach_fds(self) -> list[int]:
        """A writable descriptor of `tasks` in each hierarchy; the caller closes them.

        A single-threaded process joins by writing b"0" to each. To be opened for each joining
        process anew or shared; they stay valid as long as the cgroup is there.
        """
        fds: list[int] = []
        try:
            for directory in self._unique():
                fds.append(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise files.refused(f"{directory}/tasks", "0", error) from error
        return fds

    def clone_fd(self, *, beside: int = 0) -> None:
        """None: only cgroup v2 lets a process start inside."""

    def pids(self) -> list[int]:
        """Every process, those of cgroups beneath included."""
        return files.pids(self._process_directory())

    def _process_directory(self) -> str:
        return self.directories.get("freezer") or self._unique()[0]

    def kill(self) -> None:
        """SIGKILL to every process, also to those that are being forked; doesn't wait for them."""
        if not self.pids():
            return
        with contextlib.suppress(OSError):  # without a freezer, or gone meanwhile
            _freeze(self._freezer_state)
        try:
            files.kill_listed(self.pids)
        finally:
            self.thaw()  # killed ones must run to die
        files.kill_listed(self.pids)  # those that the freezer couldn't hold

    @property
    def freezer(self) -> str:
        """The directory whose files freeze it; empty without a freezer."""
        return self.directories.get("freezer", "")

    def freeze(self) -> None:
        files.write(self._freezer_state, "FROZEN")

    def frozen(self) -> bool:
        """The kernel looks whether all are stopped when it is asked."""
        return files.read(self._freezer_state) == "FROZEN"

    def thaw(self) -> None:
        with contextlib.suppress(OSError):
            files.write(self._freezer_state, "THAWED")

    @property
    def _freezer_state(self) -> str:
        return f"{self.freezer}/freezer.state"

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for want of memory; 0 without the cgroup."""
        directory = self.directories.get("memory", "")
        return sum(
            counter(f"{path}/memory.oom_control", "oom_kill") for path in files.tree(directory)
        )

    def memory(self) -> MemoryUsage:
        """Bytes in use now and at most. Raises FileNotFoundError without the cgroup."""
        directory = self.directories.get("memory", "")
        return MemoryUsage(
            current=int(files.read(f"{directory}/memory.usage_in_bytes")),
            peak=int(files.read(f"{directory}/memory.max_usage_in_bytes")),
        )

    def memory_held(self) -> int:
        """Bytes in use, but for page cache that nobody has read lately. 0 without the cgroup."""
        try:
            used = self.memory().current
        except FileNotFoundError:
            return 0
        directory = self.directories.get("memory", "")
        return max(0, used - counter(f"{directory}/memory.stat", "total_inactive_file"))

    def value(self, setting: Setting) -> str | None:
        """What the kernel has for a setting now; None: it has no such file."""
        try:
            return files.read(f"{self.directories[setting.controller]}/{setting.file}")
        except (KeyError, FileNotFoundError):
            return None

    def remove(self, *, timeout: float = 2.0) -> None:
        """Removes it in every hierarchy, depth first; idempotent. Raises CgroupBusy.

        timeout: seconds to wait for processes that are about to end.
        """
        deadline = time.monotonic() + timeout
        for directory in reversed(self._unique()):
            files.remove(directory, deadline=deadline)


def _freeze(state: str) -> None:
    """Freezes, and waits a little until all are frozen, so that none is in the middle of a fork:
    for a moment of it the child exists and no cgroup lists it.

    The kernel sends no word of it, a look at the file is what it takes. A process that hangs in
    the kernel can't be frozen; it can't fork either.
    """
    deadline = time.monotonic() + _FREEZE_SECONDS
    files.write(state, "FROZEN")
    while files.read(state) != "FROZEN" and time.monotonic() < deadline:
        time.sleep(0.0002)


def _inherit_cpuset(directory: str, wanted: set[str] | frozenset[str] = frozenset()) -> None:
    """Fills what is empty from the nearest parent that isn't: no process may join before that."""
    for file in _CPUSET_FILES:
        if file not in wanted:
            _inherited(directory, file)
        else:
            _inherited(os.path.dirname(directory), file)


def _inherited(directory: str, file: str) -> str:
    path = f"{directory}/{file}"
    value = files.read(path)
    if value:
        return value
    value = _inherited(os.path.dirname(directory), file)
    try:
        files.write(path, value)
    except OSError as error:
        raise files.refused(path, value, error) from error
    return value


def _limit_devices(directory: str, policy: devices.Policy) -> None:
    """A child starts with its parent's list, so that "all" needs no word where nothing differs."""
    lines = [devices.line(rule) for rule in policy.exceptions]
    if policy.allow_all:
        if files.read(f"{directory}/devices.list") != "a *:* rwm":
            files.write_lines(f"{directory}/devices.allow", ["a"])
        if lines:
            files.write_lines(f"{directory}/devices.deny", lines)
        return
    files.write_lines(f"{directory}/devices.deny", ["a"])
    files.write_lines(f"{directory}/devices.allow", lines)
