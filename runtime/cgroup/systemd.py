"""systemd as the maker of cgroups: a container is a scope, a pod a slice.

    kubepods-burstable-podUID.slice/
      podwright-<id>.scope/         systemd's: its limits are properties, Delegate=yes
        container/                  ours, as with cgroupfs: exact limits, devices, all processes
        seat/                       for a moment: a process that keeps the place (v2)

    seat = a process of ours
    StartTransientUnit(scope: Slice=, PIDs=[seat], limits)      systemd puts it into the scope
    …the seat moves aside, the inner cgroup is made, the first process is born in there…
    seat leaves

A scope ends, and is collected, when its last process has gone. Of the scope's own files systemd
writes all of a controller anew whenever it is reloaded or asked for a change, also those for which
it has no property (memory.oom.group, v1's devices), and quotas in whole percent; of the inner
cgroup it writes none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from runtime.cgroup import files, units
from runtime.cgroup.bus import Bus
from runtime.cgroup.driver import SYSTEMD, Cgroupfs, Created
from runtime.cgroup.errors import CgroupBusy, SystemdRefused
from runtime.cgroup.limits import Limits
from runtime.cgroup.seat import Seat
from runtime.cgroup.tree import Cgroup, Hierarchy
from runtime.cgroup.v2 import HierarchyV2
from runtime.errors import RuntimeFault

_EXISTS = "org.freedesktop.systemd1.UnitExists"
_UNKNOWN = "org.freedesktop.systemd1.NoSuchUnit"


class Systemd:
    """See `Driver`. Keeps nothing; every act is a connection of its own."""

    name = SYSTEMD

    def __init__(self, hierarchy: Hierarchy, connect: Callable[[], Bus] = Bus) -> None:
        self._hierarchy = hierarchy
        self._connect = connect

    def create(self, cgroup: Cgroup, limits: Limits) -> Created:
        """Raises InvalidSpec, SystemdUnavailable, SystemdRefused, CgroupRefused, CgroupBusy."""
        if not units.in_scope(cgroup.path):  # its pod is older than this choice of a driver
            return Cgroupfs().create(cgroup, limits)
        scope, slice_name = units.scope_and_slice(cgroup.path)
        seat = Seat()
        ours = False
        try:
            properties = units.scope_properties(slice_name, seat.pid, limits)
            self._start(cgroup, scope, properties)
            ours = True
            aside = self._aside(cgroup)
            if aside:
                files.make(aside)
                files.write(f"{aside}/cgroup.procs", str(seat.pid))
            notes = cgroup.create(limits)
        except BaseException:
            seat.leave()
            if ours:
                with contextlib.suppress(RuntimeFault):
                    self._stop(scope)
            raise

        def joined() -> None:
            seat.leave()
            if aside:
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

    def _start(self, cgroup: Cgroup, scope: str, properties: Sequence[units.Property]) -> None:
        signature = "ssa(sv)a(sa(sv))"
        words: tuple[object, ...] = (scope, "fail", list(properties), [])
        with self._connect() as bus:
            try:
                bus.job(scope, "StartTransientUnit", signature, *words)
            except SystemdRefused as error:
                if error.error != _EXISTS:
                    raise
                if members := self._hierarchy.cgroup(units.scope_path(cgroup.path)).pids():
                    raise CgroupBusy(scope, tuple(members), "is there, and in use") from None
                self._stop(scope)  # what a crash has left
                bus.job(scope, "StartTransientUnit", signature, *words)

    def _aside(self, cgroup: Cgroup) -> str:
        """Where the seat goes; "": it may stay. On v2 no process may be in a cgroup that hands
        controllers down."""
        if not isinstance(self._hierarchy, HierarchyV2):
            return ""
        return f"{self._hierarchy.mount}{units.scope_path(cgroup.path)}/seat"

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
