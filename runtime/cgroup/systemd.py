"""systemd as the maker of cgroups: a container is a scope, a pod a slice.

    seat = a process of ours
    StartTransientUnit(podwright-<id>.scope: Slice=, Delegate=yes, PIDs=[seat], limits)
    …our own files in it, as with cgroupfs: exact values, what systemd has no property for, devices
    …the container's first process is born inside (v2), or joins by `tasks` (v1)…
    seat leaves

A scope ends, and is collected, when its last process has gone; whoever removes its directory
before systemd does takes nothing away from it. The limits are properties, too: systemd writes
those of a controller anew when it is reloaded or asked for a change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from runtime.cgroup import units
from runtime.cgroup.bus import Bus
from runtime.cgroup.driver import SYSTEMD, Cgroupfs, Created
from runtime.cgroup.errors import CgroupBusy, CgroupRefused, SystemdRefused
from runtime.cgroup.limits import Limits, Setting
from runtime.cgroup.seat import Seat
from runtime.cgroup.tree import Cgroup
from runtime.errors import RuntimeFault

_EXISTS = "org.freedesktop.systemd1.UnitExists"
_UNKNOWN = "org.freedesktop.systemd1.NoSuchUnit"
_QUOTAS = ("cpu.max", "cpu.cfs_period_us", "cpu.cfs_quota_us")


class Systemd:
    """See `Driver`. Keeps nothing; every act is a connection of its own."""

    name = SYSTEMD

    def __init__(self, connect: Callable[[], Bus] = Bus) -> None:
        self._connect = connect

    def create(self, cgroup: Cgroup, limits: Limits) -> Created:
        """Raises InvalidSpec, SystemdUnavailable, SystemdRefused, CgroupRefused, CgroupBusy."""
        if not units.is_scope(cgroup.path):  # its pod is older than this choice of a driver
            return Cgroupfs().create(cgroup, limits)
        scope, slice_name = units.scope_and_slice(cgroup.path)
        seat = Seat()
        ours = False
        try:
            self._start(cgroup, scope, units.scope_properties(slice_name, seat.pid, limits))
            ours = True
            notes = cgroup.furnish(_with_seat(limits))
        except BaseException:
            seat.leave()
            if ours:
                with contextlib.suppress(RuntimeFault):
                    self._stop(scope)
            raise

        def joined() -> None:
            seat.leave()
            with contextlib.suppress(CgroupRefused):  # it may have ended already
                cgroup.update(Limits(tuple(filter(_counts_seat, limits.settings))))

        return Created(notes, joined)

    def changed(self, cgroup: Cgroup, limits: Limits) -> None:
        """Raises SystemdUnavailable, SystemdRefused."""
        changes = units.properties(limits.settings)
        if not changes or not units.is_scope(cgroup.path):
            return
        scope = cgroup.path.rpartition("/")[2]
        exact = [setting for setting in map(_quota, _QUOTAS) if cgroup.value(setting) is not None]
        kept = tuple(replace(one, value=cgroup.value(one) or "") for one in exact)
        with self._connect() as bus:
            runtime = True  # not on disk: it is gone with the unit
            bus.call(scope, "SetUnitProperties", "sba(sv)", scope, runtime, changes)
        with contextlib.suppress(CgroupRefused):  # ended meanwhile
            cgroup.update(Limits(kept))

    def forget(self, cgroup: str) -> None:
        """Stops the unit, with all that runs in it. Raises SystemdUnavailable, SystemdRefused."""
        self._stop(cgroup.rpartition("/")[2])

    def _start(self, cgroup: Cgroup, scope: str, properties: Sequence[units.Property]) -> None:
        signature = "ssa(sv)a(sa(sv))"
        words: tuple[object, ...] = (scope, "fail", list(properties), [])
        with self._connect() as bus:
            try:
                bus.job(scope, "StartTransientUnit", signature, *words)
            except SystemdRefused as error:
                if error.error != _EXISTS:
                    raise
                if members := cgroup.pids():
                    raise CgroupBusy(scope, tuple(members), "is there, and in use") from None
                self._stop(scope)  # what a crash has left
                bus.job(scope, "StartTransientUnit", signature, *words)

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


def _quota(file: str) -> Setting:
    return Setting("", "cpu", file, "")


def _counts_seat(setting: Setting) -> bool:
    return setting.file == "pids.max" and setting.value.isdecimal()


def _with_seat(limits: Limits) -> Limits:
    """Who keeps the place counts as one: else a container of one process could not begin."""
    settings = (
        replace(one, value=str(int(one.value) + 1)) if _counts_seat(one) else one
        for one in limits.settings
    )
    return replace(limits, settings=tuple(settings))
