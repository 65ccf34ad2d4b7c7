"""Whom the kernel killed for want of memory, told also of a cgroup that is gone.

systemd removes a scope, and what is in it, as soon as nobody is left there, and so before anyone
has asked. cgroup v2 counts in a parent what was ever beneath, in removed cgroups, too.
"""

from __future__ import annotations

from collections.abc import Iterable

from runtime.cgroup.tree import Cgroup, Hierarchy

_OF_SYSTEMD = ".scope/"  # in the path of a cgroup that systemd removes


class OomKills:
    """Of the containers whose cgroups are in one."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._parent = ""
        self._told: int | None = None  # of the parent's count: older than us, or told already

    def begin(self, path: str, parent: str) -> None:
        """A container is to be started in the cgroup at `path`; parent: the path of its pod's."""
        if self._told is None and _OF_SYSTEMD in path:
            self._parent = parent
            self._told = self._all()

    def of(self, cgroup: Cgroup, others: Iterable[Cgroup]) -> int:
        """Of a container that has ended; to be asked once. others: those of containers that run."""
        seen = cgroup.oom_kills() if cgroup.exists() else 0
        if self._told is None or _OF_SYSTEMD not in cgroup.path:
            return seen
        if not seen and not cgroup.exists():
            running = sum(other.oom_kills() for other in others)
            seen = max(0, self._all() - self._told - running)
        self._told += seen
        return seen

    def _all(self) -> int:
        return self._hierarchy.cgroup(self._parent).oom_kills()
