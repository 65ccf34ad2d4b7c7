"""cgroup v2: one directory, whose parents must hand down the controllers.

    /sys/fs/cgroup/                  cgroup.subtree_control: cpuset cpu io memory pids
      kubepods/                      cgroup.subtree_control: the same
        pod1/                        cgroup.subtree_control: the same; no processes of its own
          <container>/               processes; may be subdivided by the container itself

Processes start inside (CLONE_INTO_CGROUP); nothing is moved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass

from runtime.cgroup import devices, files
from runtime.cgroup.errors import CgroupRefused
from runtime.cgroup.events import counter
from runtime.cgroup.limits import Limits, Setting
from runtime.cgroup.stats import MemoryUsage
from runtime.linux import bpf

# Handed down wherever they are there: without the files there is nothing to read usage from.
_WANTED = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")
_REQUIRED = ("cpu", "memory", "pids")


@dataclass(frozen=True, slots=True)
class HierarchyV2:
    """mount: where cgroup2 is mounted."""

    mount: str
    version: int = 2

    @property
    def controllers(self) -> tuple[str, ...]:
        """Those that the kernel offers at the root of what we see."""
        return tuple(files.read(f"{self.mount}/cgroup.controllers").split())

    @property
    def missing(self) -> tuple[str, ...]:
        """Controllers without which containers can't be limited."""
        there = self.controllers
        return tuple(name for name in _REQUIRED if name not in there)

    def cgroup(self, path: str) -> CgroupV2:
        """The cgroup at an absolute path such as /kubepods/pod1/<id>. Raises InvalidSpec."""
        return CgroupV2(files.checked_path(path), self.mount)


@dataclass(frozen=True, slots=True)
class CgroupV2:
    """A value: it says where a cgroup is, not that it exists."""

    path: str
    mount: str

    @property
    def directory(self) -> str:
        return self.mount + self.path

    def exists(self) -> bool:
        return os.path.isdir(self.directory)

    def ensure(self) -> None:
        """Makes the cgroup, unlimited, if it isn't there: for a pod's, which holds containers'."""
        if files.make(self.directory):
            _hand_down(self.mount, self.path)

    def create(self, limits: Limits) -> tuple[str, ...]:
        """Makes the cgroup, hands it the controllers and sets the limits.

        Answers a sentence for each optional limit that this kernel can't set. An empty cgroup
        that a crash left is replaced; CgroupBusy if processes live in it. On failure nothing of
        the cgroup stays (parents do).
        """
        directory = self.directory
        if not files.make(directory):
            files.refuse_busy(directory)
            files.remove(directory, deadline=0)
            files.make(directory)
        with contextlib.ExitStack() as undo:
            undo.callback(self.remove)
            _hand_down(self.mount, self.path)
            notes = self.update(limits)
            self._limit_devices(limits)
            undo.pop_all()
        return notes

    def update(self, limits: Limits) -> tuple[str, ...]:
        """Sets the limits, devices excepted, on a living cgroup. Answers as `create` does."""
        notes = [self._apply(setting) for setting in limits.settings]
        return tuple(dict.fromkeys(note for note in notes if note))  # some have two files

    def _apply(self, setting: Setting) -> str | None:
        return files.apply(self.directory, setting)

    def _limit_devices(self, limits: Limits) -> None:
        if devices.everything(limits.devices):
            return  # no program at all is the fastest one
        program = devices.bpf_program(limits.devices)
        try:
            bpf.attach_device_program(self.directory, program)
        except OSError as error:
            raise CgroupRefused(
                self.directory,
                "a device program",
                error.errno or 0,
                field="linux.resources.devices",
                remedy="the kernel needs CONFIG_CGROUP_BPF, and we need CAP_SYS_ADMIN and CAP_BPF",
            ) from error

    def attach_fds(self) -> list[int]:
        """None: on v2 a process starts inside, see clone_fd."""
        return []

    def clone_fd(self, *, beside: int = 0) -> int:
        """A directory descriptor for CLONE_INTO_CGROUP; the caller closes it.

        beside: the container's first process, for an exec: where the container has divided its
        cgroup, no process may be in the cgroup itself any more; then it is that process's.
        """
        directory = self.directory
        try:
            if beside and files.read(f"{directory}/cgroup.subtree_control"):
                directory = self._directory_of(beside)
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise files.refused(directory, "", error) from error

    def _directory_of(self, pid: int) -> str:
        """The process's cgroup if it is beneath ours; else ours."""
        for line in files.read(f"/proc/{pid}/cgroup").splitlines():
            if line.startswith(f"0::{self.path}/") and ".." not in line.split("/"):
                return self.mount + line.removeprefix("0::")
        return self.directory

    def pids(self) -> list[int]:
        """Every process, those of cgroups beneath included."""
        return files.pids(self.directory)

    def kill(self) -> None:
        """SIGKILL to every process, also to those that are being forked; doesn't wait for them."""
        try:
            files.write(f"{self.directory}/cgroup.kill", "1")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
            files.kill_listed(self.pids)  # before Linux 5.14

    @property
    def freezer(self) -> str:
        """The directory whose files freeze it."""
        return self.directory

    def freeze(self) -> None:
        files.write(f"{self.directory}/cgroup.freeze", "1")

    def frozen(self) -> bool:
        return counter(f"{self.directory}/cgroup.events", "frozen") == 1

    def thaw(self) -> None:
        """Lets them run again. SIGKILL acts on what is frozen without it."""
        with contextlib.suppress(OSError):
            files.write(f"{self.directory}/cgroup.freeze", "0")

    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for want of memory; 0 without the cgroup."""
        return counter(f"{self.directory}/memory.events", "oom_kill")

    def memory(self) -> MemoryUsage:
        """Bytes in use now and at most. Raises FileNotFoundError without the cgroup."""
        peak = 0
        with contextlib.suppress(FileNotFoundError):
            peak = int(files.read(f"{self.directory}/memory.peak"))
        return MemoryUsage(current=int(files.read(f"{self.directory}/memory.current")), peak=peak)

    def memory_held(self) -> int:
        """Bytes in use, but for page cache that nobody has read lately. 0 without the cgroup."""
        try:
            used = self.memory().current
        except FileNotFoundError:
            return 0
        return max(0, used - counter(f"{self.directory}/memory.stat", "inactive_file"))

    def value(self, setting: Setting) -> str | None:
        """What the kernel has for a setting now; None: it has no such file."""
        try:
            return files.read(f"{self.directory}/{setting.file}")
        except FileNotFoundError:
            return None

    def remove(self, *, timeout: float = 2.0) -> None:
        """Removes it, depth first; idempotent. Raises CgroupBusy.

        timeout: seconds to wait for processes that are about to end.
        """
        files.remove(self.directory, deadline=time.monotonic() + timeout)


def _hand_down(mount: str, path: str) -> None:
    """Gives the new cgroup at `path` every controller that the root has, from the top down."""
    at_hand = set(files.read(f"{mount}{path}/cgroup.controllers").split())
    offered = files.read(f"{mount}/cgroup.controllers").split()
    wanted = [name for name in _WANTED if name in offered and name not in at_hand]
    if not wanted:
        return
    directory = mount
    for part in path.split("/")[1:]:
        _enable(directory, wanted)
        directory = f"{directory}/{part}"


def _enable(directory: str, controllers: list[str]) -> None:
    path = f"{directory}/cgroup.subtree_control"
    enabled = files.read(path).split()
    lacking = [name for name in controllers if name not in enabled]
    if not lacking:
        return
    try:
        files.write(path, " ".join(f"+{name}" for name in lacking))
    except OSError:
        for name in lacking:
            _enable_one(path, name)


def _enable_one(path: str, name: str) -> None:
    """A controller that can't be handed down only matters if containers can't do without it."""
    try:
        files.write(path, f"+{name}")
    except OSError as error:
        if name not in _REQUIRED:
            return
        remedy = "the cgroup above doesn't offer this controller"
        if error.errno == errno.EBUSY:
            remedy = (
                f"processes live in {os.path.dirname(path)} itself, where v2 allows none beside "
                "controllers that are handed down: move them into a cgroup beneath"
            )
        raise CgroupRefused(path, f"+{name}", error.errno or 0, remedy=remedy) from error
