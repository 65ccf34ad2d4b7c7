"""systemd as the maker of cgroups: a container is a scope, a pod a slice.

    kubepods-burstable-podUID.slice/
      podwright-<id>.scope/         systemd's: its limits are properties, Delegate=yes
        container/                  ours, or an OCI binary's, as with cgroupfs: exact limits,
                                    devices, all processes
        seat/                       for a moment: a process that keeps the place

    seat = a process of ours
    StartTransientUnit(scope: Slice=, PIDs=[seat], limits)      systemd puts it into the scope
    …the seat moves aside, the inner cgroup is made, the first process is born in there…
    seat leaves

A scope ends, and is collected, when its last process has gone. Of the scope's own files systemd
writes all of a controller anew whenever it is reloaded or asked for a change, also those for which
it has no property (memory.oom.group), and quotas in whole percent; of the inner
cgroup it writes none.

Of cgroup v2 alone: who has systemd and a kernel that we run on has v2, unless told otherwise.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from runtime.cgroup import files, units
from runtime.cgroup.bus import Bus
from runtime.cgroup.driver import SYSTEMD, Cgroupfs, Created
from runtime.cgroup.errors import CgroupBusy, CgroupRefused, SystemdRefused
from runtime.cgroup.limits import Limits
from runtime.cgroup.seat import Seat
from runtime.cgroup.tree import Cgroup
from runtime.cgroup.v2 import HierarchyV2
from runtime.errors import RuntimeFault

_EXISTS = "org.freedesktop.systemd1.UnitExists"
_UNKNOWN = "org.freedesktop.systemd1.NoSuchUnit"


class Systemd:
    """See `Driver`. Keeps nothing; every act is a connection of its own."""

    name = SYSTEMD

    def __init__(self, hierarchy: HierarchyV2, connect: Callable[[], Bus] = Bus) -> None:
        self._hierarchy = hierarchy
        self._connect = connect

    def create(self, cgroup: Cgroup, limits: Limits) -> Created:
        """Raises InvalidSpec, SystemdUnavailable, SystemdRefused, CgroupRefused, CgroupBusy."""
        if not units.in_scope(cgroup.path):  # its pod is older than this choice of a driver
            return Cgroupfs().create(cgroup, limits)
        return self._in_scope(cgroup, limits, lambda: cgroup.create(limits))

    def enclose(self, cgroup: Cgroup, limits: Limits) -> Created:
        """The scope alone. Raises as `create` does."""
        if not units.in_scope(cgroup.path):
            return Cgroupfs().enclose(cgroup, limits)
        return self._in_scope(cgroup, limits, tuple)

    def _in_scope(
        self, cgroup: Cgroup, limits: Limits, make: Callable[[], tuple[str, ...]]
    ) -> Created:
        """make: makes what is to be in the scope, and answers notes."""
        scope, slice_name = units.scope_and_slice(cgroup.path)
        directory = self._hierarchy.mount + units.scope_path(cgroup.path)
        aside = f"{directory}/seat"  # where controllers are handed down no process may be
        with contextlib.ExitStack() as undo, self._connect() as bus:
            seat = Seat()
            undo.callback(seat.leave)
            self._start(bus, seat, cgroup, units.scope_properties(slice_name, seat.pid, limits))
            undo.callback(self._give_up, scope)
            undo.callback(seat.leave)  # first of all
            try:
                files.make(aside)
                files.write(f"{aside}/cgroup.procs", str(seat.pid))
                notes = make()
            except CgroupRefused as error:
                if seat.killed():  # and the scope ended with it
                    raise _too_small(error) from error
                raise
            undo.pop_all()

        def joined() -> None:
            seat.leave()
            with contextlib.suppress(OSError):  # systemd removes it, too, and may be quicker
                os.rmdir(aside)

        return Created(notes, joined)

    def changed(self, cgroup: Cgroup, limits: Limits) -> None:
        """Raises SystemdUnavailable, SystemdRefused."""
        changes = units.properties(limits.settings)
        if not changes or not units.in_scope(cgroup.path):
            return
        scope, _ = units.scope_and_slice(cgroup.path)
        runtime = True  # not on disk: it is gone with the unit
        with self._connect() as bus:
            bus.call(scope, "SetUnitProperties", "sba(sv)", scope, runtime, changes)

    def forget(self, unit: str) -> None:
        """Stops the unit, with all that runs in it. Raises SystemdUnavailable, SystemdRefused."""
        self._stop(unit)

    def _start(
        self, bus: Bus, seat: Seat, cgroup: Cgroup, properties: Sequence[units.Property]
    ) -> None:
        signature = "ssa(sv)a(sa(sv))"
        path = units.scope_path(cgroup.path)
        scope = path.rpartition("/")[2]
        words: tuple[object, ...] = (scope, "fail", list(properties), [])

        def inside() -> bool:
            """systemd puts it in when the scope has its limits; nothing comes after that."""
            return files.read(f"/proc/{seat.pid}/cgroup").endswith(path)

        try:
            bus.job(scope, "StartTransientUnit", signature, *words, seen=inside)
        except SystemdRefused as error:
            if error.error != _EXISTS:
                raise
            if members := self._hierarchy.cgroup(path).pids():
                raise CgroupBusy(scope, tuple(members), "is there, and in use") from None
            self._stop(scope)  # what a crash has left
            bus.job(scope, "StartTransientUnit", signature, *words, seen=inside)

    def _give_up(self, scope: str) -> None:
        with contextlib.suppress(RuntimeFault):
            self._stop(scope)

    def _stop(self, unit: str) -> None:
        """One that systemd doesn't know, or that is already going, is as good as stopped."""
        with self._connect() as bus:
            try:
                bus.job(unit, "StopUnit", "ss", unit, "replace")
            except SystemdRefused as error:
                if error.error not in (_UNKNOWN, "canceled"):
                    raise
            with contextlib.suppress(SystemdRefused):
                bus.call(unit, "ResetFailedUnit", "s", unit)


def _too_small(error: CgroupRefused) -> CgroupRefused:
    """The kernel has killed the first process of a scope, and systemd has ended that."""
    field = "linux.resources.memory.limit"
    remedy = "the first process was killed: the memory limit is too small even to start"
    return CgroupRefused(error.file, error.value, error.errno, field=field, remedy=remedy)
