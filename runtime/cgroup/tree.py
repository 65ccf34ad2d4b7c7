"""The one face of cgroup v1 and v2: which hierarchy this machine has, and the cgroups in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from runtime.cgroup.errors import CgroupsUnusable
from runtime.cgroup.limits import Limits, Setting
from runtime.cgroup.stats import MemoryUsage
from runtime.cgroup.v1 import CONTROLLERS, HierarchyV1
from runtime.cgroup.v2 import HierarchyV2

ROOT = Path("/sys/fs/cgroup")
_ESCAPE = re.compile(r"\\([0-7]{3})")  # mountinfo writes a blank as \040


class Cgroup(Protocol):
    """One cgroup, existing or not. Nothing here keeps state; every method may be called again."""

    @property
    def path(self) -> str:
        """As given: absolute within the hierarchy."""

    def exists(self) -> bool: ...

    def ensure(self) -> None:
        """Makes the cgroup, unlimited, if it isn't there: for a pod's, which holds containers'."""

    def create(self, limits: Limits) -> tuple[str, ...]:
        """Makes the cgroup, its parents too, and sets the limits; answers what couldn't be set."""

    def update(self, limits: Limits) -> tuple[str, ...]:
        """Sets limits (devices excepted) on a living cgroup."""

    def attach_fds(self) -> list[int]:
        """v1: descriptors to which a single-threaded process writes b"0" to join; v2: none."""

    def clone_fd(self, *, beside: int = 0) -> int | None:
        """v2: a directory descriptor for CLONE_INTO_CGROUP; the caller closes it. v1: None.

        beside: the container's first process, for an exec: where the container has divided its
        cgroup, no process may be in the cgroup itself any more; then it is that process's.
        """

    def pids(self) -> list[int]: ...

    def kill(self) -> None:
        """SIGKILL to every process, those beneath included; doesn't wait for their end."""

    @property
    def freezer(self) -> str:
        """The directory whose files freeze it; v1 without a freezer: empty."""

    def freeze(self) -> None:
        """Has the kernel begin to stop every process; `frozen` says when all are. OSError."""

    def frozen(self) -> bool: ...

    def thaw(self) -> None:
        """Lets them run again. Idempotent; on v1 what was killed needs it to die."""

    def oom_kills(self) -> int: ...

    def memory(self) -> MemoryUsage: ...

    def memory_held(self) -> int:
        """Bytes in use, but for page cache that nobody has read lately. 0 without the cgroup."""

    def value(self, setting: Setting) -> str | None:
        """What the kernel has for a setting now; None: it has no such file."""

    def remove(self, *, timeout: float = 2.0) -> None:
        """Depth first, idempotent; waits up to `timeout` seconds for processes that are ending."""


class Hierarchy(Protocol):
    """What is mounted. version: 1 (legacy and hybrid) or 2 (unified)."""

    @property
    def version(self) -> int: ...

    @property
    def controllers(self) -> tuple[str, ...]: ...

    @property
    def missing(self) -> tuple[str, ...]:
        """Controllers without which containers can't be limited; () on a sound machine."""

    def cgroup(self, path: str) -> Cgroup:
        """The cgroup at an absolute path; no file is touched. Raises InvalidSpec."""


def detect(root: Path = ROOT, *, mountinfo: Path = Path("/proc/self/mountinfo")) -> Hierarchy:
    """What is mounted at `root` (v2) or beneath it (v1). Raises CgroupsUnusable."""
    mounts: dict[str, str] = {}
    for mount_point, kind, options in _mounts(mountinfo):
        if kind == "cgroup2" and Path(mount_point) == root:
            return HierarchyV2(str(root))
        if kind == "cgroup" and Path(mount_point).parent == root:
            for name in CONTROLLERS:
                if name in options:
                    mounts[name] = mount_point
    if not mounts:
        raise CgroupsUnusable(
            f"no cgroup file system at {root} nor beneath it: mount one "
            f"(mount -t cgroup2 none {root}), or start where one is"
        )
    return HierarchyV1({name: mounts[name] for name in CONTROLLERS if name in mounts})


def mount_points(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """Of all hierarchies, named ones and a hybrid's cgroup2 included."""
    return [place for place, kind, _ in _mounts(mountinfo) if kind in ("cgroup", "cgroup2")]


def _mounts(mountinfo: Path) -> list[tuple[str, str, frozenset[str]]]:
    """(mount point, type, super options) of each line. See proc_pid_mountinfo(5)."""
    result = []
    for line in mountinfo.read_bytes().splitlines():
        left, _, right = os.fsdecode(line).partition(" - ")
        kind, _, options = right.split(" ")[:3]
        mount_point = _ESCAPE.sub(lambda found: chr(int(found[1], 8)), left.split(" ")[4])
        result.append((mount_point, kind, frozenset(options.split(","))))
    return result
