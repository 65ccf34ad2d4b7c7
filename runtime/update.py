"""New limits for a running container, its cgroup and each of its processes: all or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from runtime.cgroup.change import Changed, change
from runtime.cgroup.change import put_back as put_limits_back
from runtime.cgroup.driver import Driver
from runtime.cgroup.errors import CgroupRefused, SystemdRefused, SystemdUnavailable
from runtime.cgroup.limits import Limits, limits
from runtime.cgroup.tree import Cgroup, Hierarchy
from runtime.errors import ContainerNotFound, RuntimeFault
from runtime.spec import Resources

_PASSES = 100  # each one finds what was forked during the one before
_BATCH = 256  # processes: a descriptor each


@dataclass(frozen=True, slots=True)
class Update:
    """What shall change: only what is given. oom_score_adj: of every process; None: it stays."""

    container_id: str
    cgroup_path: str
    resources: Resources
    oom_score_adj: int | None = None


@dataclass(frozen=True, slots=True)
class Updated:
    """What was done, and what `put_back` needs. scores: old oom_score_adj by pid.

    notes: sentences on what this kernel, or our privileges, did not allow.
    """

    notes: tuple[str, ...]
    changed: Changed
    scores: Mapping[int, int]


class Updates:
    """What the daemon's loop calls; the files are written in threads."""

    def __init__(self, hierarchy: Hierarchy, driver: Driver) -> None:
        self._hierarchy = hierarchy
        self._driver = driver

    def check(self, resources: Resources) -> None:
        """Raises InvalidSpec for what no container of this node could have."""
        limits(resources, self._hierarchy.version)

    async def apply(self, update: Update) -> Updated:
        """See `apply`."""
        return await asyncio.to_thread(apply, self._hierarchy, self._driver, update)

    async def put_back(self, update: Update, updated: Updated) -> None:
        """See `put_back`."""
        await asyncio.to_thread(put_back, self._hierarchy, self._driver, update, updated)


def apply(hierarchy: Hierarchy, driver: Driver, update: Update) -> Updated:
    """Raises InvalidSpec, MemoryInUse, CgroupRefused, SystemdRefused, SystemdUnavailable: nothing
    has changed.

    Raises ContainerNotFound if the container has ended meanwhile.
    """
    cgroup = hierarchy.cgroup(update.cgroup_path)
    wanted = limits(update.resources, hierarchy.version)
    try:
        changed = change(cgroup, wanted)
        _tell(driver, cgroup, wanted, changed)
    except (CgroupRefused, SystemdRefused):
        if not cgroup.exists():
            raise ContainerNotFound(update.container_id) from None
        raise
    if update.oom_score_adj is None:
        return Updated(changed.notes, changed, {})
    try:
        scores, refused = _score(cgroup, update.oom_score_adj)
    except OSError:
        put_back(hierarchy, driver, update, Updated(changed.notes, changed, {}))
        raise
    notes = changed.notes
    if refused:
        notes += (
            f"oom_score_adj of {refused} processes stays as it is: for {update.oom_score_adj} it "
            "takes CAP_SYS_RESOURCE",
        )
    return Updated(notes, changed, scores)


def _tell(driver: Driver, cgroup: Cgroup, wanted: Limits, changed: Changed) -> None:
    """Who else keeps the limits has to have the same, or nobody."""
    try:
        driver.changed(cgroup, wanted)
    except (SystemdRefused, SystemdUnavailable) as error:
        for failure in put_limits_back(cgroup, changed.before):
            error.add_note(failure)
        raise


def put_back(hierarchy: Hierarchy, driver: Driver, update: Update, updated: Updated) -> None:
    """Undoes an update that could not be written down. Raises RuntimeFault."""
    cgroup = hierarchy.cgroup(update.cgroup_path)
    for pid, score in updated.scores.items():
        _exchange({pid}, cgroup.pids, score)
    failures = put_limits_back(cgroup, updated.changed.before)
    if failures and cgroup.exists():
        raise RuntimeFault("; ".join(failures))
    driver.changed(cgroup, Limits(updated.changed.before))


def _score(cgroup: Cgroup, score: int) -> tuple[dict[int, int], int]:
    """Old scores by pid, and how many processes we may not set."""
    before: dict[int, int | None] = {}
    seen: set[int] = {0}  # 0: of a pid namespace that we don't see
    for _ in range(_PASSES):
        new = sorted(set(cgroup.pids()) - seen)
        if not new:
            break
        seen.update(new)
        for start in range(0, len(new), _BATCH):
            before |= _exchange(new[start : start + _BATCH], cgroup.pids, score)
    done = {pid: old for pid, old in before.items() if old is not None}
    return done, len(before) - len(done)


def _exchange(
    pids: Collection[int], members: Callable[[], list[int]], score: int
) -> dict[int, int | None]:
    """Sets a score; the old ones by pid, None for a process whose score we may not set.

    A pid may have become somebody else's: its directory is held, and only then looked whether the
    pid is still a member. A process that has ended in between can't be written to by it.
    """
    found: dict[int, int | None] = {}
    with contextlib.ExitStack() as held:
        directories = {}
        for pid in pids:
            with contextlib.suppress(FileNotFoundError):
                directories[pid] = os.open(
                    f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                )
                held.callback(os.close, directories[pid])
        for pid in directories.keys() & set(members()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[pid] = _exchange_one(directories[pid], score)
    return found


def _exchange_one(directory_fd: int, score: int) -> int | None:
    fd = os.open("oom_score_adj", os.O_RDWR | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        old = int(os.read(fd, 16))
        os.write(fd, b"%d" % score)
    except PermissionError:
        return None
    else:
        return old
    finally:
        os.close(fd)
