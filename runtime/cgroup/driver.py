"""Who makes a container's cgroup: we (cgroupfs), or systemd, asked by us."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runtime.cgroup import units
from runtime.cgroup.errors import CgroupsUnusable, SystemdSilent, SystemdUnavailable
from runtime.cgroup.limits import Limits
from runtime.cgroup.tree import Cgroup, Hierarchy
from runtime.cgroup.v2 import HierarchyV2

CGROUPFS, SYSTEMD, AUTO = "cgroupfs", "systemd", "auto"
BOOTED = "/run/systemd/system"  # sd_booted(3)


@dataclass(frozen=True, slots=True)
class Created:
    """notes: sentences on what this kernel can't limit; joined: to be called once the container's
    first process is inside, or will never be, if there is something to do then."""

    notes: tuple[str, ...]
    joined: Callable[[], None] | None = None


class Driver(Protocol):
    """Blocking; for worker threads."""

    @property
    def name(self) -> str: ...

    def create(self, cgroup: Cgroup, limits: Limits) -> Created:
        """Makes a container's cgroup; nothing of it is left by a failure."""

    def enclose(self, cgroup: Cgroup, limits: Limits) -> Created:
        """What has to be around a cgroup that somebody else makes, with its limits; as `create`."""

    def changed(self, cgroup: Cgroup, limits: Limits) -> None:
        """Limits that have been written into the cgroup of a container that runs."""

    def forget(self, unit: str) -> None:
        """A container's scope, or a pod's slice of our own, is not wanted any more. Idempotent."""


class Cgroupfs:
    """Directories and files are all there is."""

    name = CGROUPFS

    def create(self, cgroup: Cgroup, limits: Limits) -> Created:
        units.refuse_units(cgroup.path)
        return Created(cgroup.create(limits))

    def enclose(self, cgroup: Cgroup, limits: Limits) -> Created:
        """Nothing: who makes it makes what is missing above."""
        return Created(())

    def changed(self, cgroup: Cgroup, limits: Limits) -> None:
        """Nobody else has to know."""

    def forget(self, unit: str) -> None:
        """Who removes its directories has removed it all."""


@dataclass(frozen=True, slots=True)
class Choice:
    """driver: which one it is to be; reason: a sentence for people; broken: it can't work."""

    driver: str
    reason: str
    broken: bool = False


def choose(
    wanted: str, version: int, *, booted: str = BOOTED, answers: Callable[[], str] | None = None
) -> Choice:
    """wanted: cgroupfs, systemd or auto. version: of the cgroups here; answers: asks systemd for
    its own."""
    if wanted == CGROUPFS:
        return Choice(CGROUPFS, "the configuration says so")
    missing = ""
    if not os.path.isdir(booted):
        missing = "systemd is not this machine's init"
    elif version == 1:
        missing = "this machine has cgroup v1, and systemd is asked for cgroups of v2 alone"
    if missing:
        return Choice(wanted if wanted == SYSTEMD else CGROUPFS, missing, wanted == SYSTEMD)
    try:
        release = (answers or systemd_version)()
    except SystemdUnavailable as error:
        # One that is there, and only has no time, must not change the driver under kubelet's pods.
        broken = wanted == SYSTEMD or isinstance(error, SystemdSilent)
        return Choice(SYSTEMD if broken else CGROUPFS, str(error), broken)
    said = "the configuration says so" if wanted == SYSTEMD else "it is this machine's init"
    return Choice(SYSTEMD, f"{said}, version {release}")


def driver(wanted: str, hierarchy: Hierarchy) -> tuple[Driver, str]:
    """The one that works here, and why it is this one. Raises CgroupsUnusable where what is wanted
    does not work."""
    choice = choose(wanted, hierarchy.version)
    if choice.broken:
        raise CgroupsUnusable(
            f'cgroup.driver = "{wanted}": {choice.reason}: try again, or write "cgroupfs"'
        )
    if choice.driver == CGROUPFS:
        return Cgroupfs(), choice.reason
    from runtime.cgroup.systemd import Systemd  # D-Bus is loaded where it is needed, and only there

    assert isinstance(hierarchy, HierarchyV2)
    return Systemd(hierarchy), choice.reason


def systemd_version(run: str = "/run") -> str:
    """What systemd says of itself. Raises SystemdUnavailable, SystemdRefused."""
    from runtime.cgroup.bus import Bus

    with Bus(f"{run}/systemd/private", f"{run}/dbus/system_bus_socket") as bus:
        return bus.property("Version")
