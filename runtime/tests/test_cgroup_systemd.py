"""systemd as the maker of cgroups, played by a double where there is none; see also e2e/systemd."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroup import driver, units
from runtime.cgroup.bus import Bus
from runtime.cgroup.errors import (
    CgroupBusy,
    CgroupRefused,
    CgroupsUnusable,
    SystemdRefused,
    SystemdSilent,
    SystemdUnavailable,
)
from runtime.cgroup.limits import Limits, Setting, limits
from runtime.cgroup.systemd import Systemd
from runtime.cgroup.v2 import CgroupV2, HierarchyV2
from runtime.errors import InvalidSpec
from runtime.spec import Memory, Resources
from runtime.tests.cgroup_driver import (
    HIERARCHY,
    MIB,
    UNIFIED,
    VERSION,
    fresh_path,
    limit,
    start_sleeper,
)
from runtime.tests.systemd_double import SYSTEMD, Refusal, SystemdDouble

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not os.path.exists(f"{UNIFIED}/cgroup.procs"), reason="no cgroup2 is mounted here"
    ),
]
SLICE = f"podwrighttest{os.getpid()}.slice"
SCOPE = f"/{SLICE}/podwright-c1.scope"
INNER = f"{SCOPE}/container"
NOTHING = Limits(())
SMALL = limits(Resources(memory=Memory(limit=64 * MIB)), 2)


@pytest.fixture
def v2() -> Iterator[HierarchyV2]:
    """The machine's; beside v1 a corner of its cgroup2, which then has no controllers."""
    if VERSION == 2:
        yield HierarchyV2(UNIFIED)
        return
    corner = f"{UNIFIED}{fresh_path()}"
    os.mkdir(corner)
    yield HierarchyV2(corner)
    os.rmdir(corner)


@pytest.fixture
def double(tmp_path: Path, v2: HierarchyV2) -> Iterator[SystemdDouble]:
    with SystemdDouble(tmp_path / "private", v2) as double:
        yield double
    v2.cgroup(f"/{SLICE}").remove(timeout=20)


@pytest.fixture
def systemd(double: SystemdDouble, v2: HierarchyV2, tmp_path: Path) -> Systemd:
    assert double.calls == []
    return Systemd(v2, lambda: Bus(str(tmp_path / "private"), "/nowhere"))


@pytest.fixture
def scope(v2: HierarchyV2) -> CgroupV2:
    """systemd's; the container's is in it."""
    return v2.cgroup(SCOPE)


@pytest.fixture
def inner(v2: HierarchyV2) -> CgroupV2:
    return v2.cgroup(INNER)


def test_a_place_is_kept_in_a_scope_until_the_first_process_is_inside(
    double: SystemdDouble, systemd: Systemd, scope: CgroupV2, inner: CgroupV2
) -> None:
    created = systemd.create(inner, NOTHING)
    (seat,) = scope.pids()
    told = double.units["podwright-c1.scope"]
    assert told["Slice"] == SLICE
    assert told["Delegate"] is True
    assert told["TasksMax"] == units.INFINITY  # and not systemd's own idea
    assert inner.pids() == []
    first = start_sleeper(inner)
    assert created.joined is not None
    created.joined()
    assert scope.pids() == inner.pids() == [first]
    assert not Path(f"/proc/{seat}").exists()
    created.joined()  # may be repeated
    scope.kill()
    os.waitpid(first, 0)


def test_a_scope_can_be_made_for_who_makes_the_cgroup_inside(
    double: SystemdDouble, systemd: Systemd, scope: CgroupV2, inner: CgroupV2
) -> None:
    enclosed = systemd.enclose(inner, SMALL)
    assert not inner.exists()
    assert double.units["podwright-c1.scope"]["MemoryMax"] == 64 * MIB
    assert len(scope.pids()) == 1
    inner.ensure()
    first = start_sleeper(inner)
    assert enclosed.joined is not None
    enclosed.joined()
    assert scope.pids() == [first]
    scope.kill()
    os.waitpid(first, 0)


def test_a_limit_that_the_kernel_refuses_leaves_no_scope(
    double: SystemdDouble, systemd: Systemd, scope: CgroupV2, inner: CgroupV2
) -> None:
    impossible = Limits((Setting("linux.resources.x", "memory", "memory.no_such_file", "1"),))
    with pytest.raises(CgroupRefused, match=r"linux\.resources\.x"):
        systemd.create(inner, impossible)
    assert double.units == {}
    assert not scope.exists()


def test_what_systemd_refuses_is_told_in_its_words(
    double: SystemdDouble, systemd: Systemd, scope: CgroupV2, inner: CgroupV2
) -> None:
    double.refuses["StartTransientUnit"] = Refusal(f"{SYSTEMD}.BadUnitSetting", "no such property")
    with pytest.raises(SystemdRefused, match=r"podwright-c1\.scope: no such property"):
        systemd.create(inner, NOTHING)


@pytest.mark.parametrize("signal_first", [False, True])
def test_a_job_that_fails_is_a_refusal(
    double: SystemdDouble, systemd: Systemd, inner: CgroupV2, signal_first: bool
) -> None:
    double.result, double.signal_first, double.idle = "timeout", signal_first, True
    with pytest.raises(SystemdRefused, match="ended as 'timeout'"):
        systemd.create(inner, NOTHING)


def test_a_job_may_end_before_its_number_is_told(
    double: SystemdDouble, systemd: Systemd, scope: CgroupV2, inner: CgroupV2
) -> None:
    double.signal_first = True
    created = systemd.create(inner, NOTHING)
    assert len(scope.pids()) == 1
    assert created.joined is not None
    created.joined()


def test_nobody_waits_for_the_end_of_a_job_that_has_done_its_work(
    double: SystemdDouble, systemd: Systemd, scope: CgroupV2, inner: CgroupV2
) -> None:
    double.untold = True
    created = systemd.create(inner, NOTHING)
    assert len(scope.pids()) == 1
    assert created.joined is not None
    created.joined()


def test_an_empty_scope_that_a_crash_left_is_replaced(
    double: SystemdDouble, systemd: Systemd, scope: CgroupV2, inner: CgroupV2
) -> None:
    first = systemd.create(inner, NOTHING)
    assert first.joined is not None
    first.joined()
    assert scope.pids() == []
    second = systemd.create(inner, NOTHING)
    assert len(scope.pids()) == 1
    assert second.joined is not None
    second.joined()


def test_a_scope_in_which_processes_live_is_never_replaced(
    systemd: Systemd, scope: CgroupV2, inner: CgroupV2
) -> None:
    created = systemd.create(inner, NOTHING)
    with pytest.raises(CgroupBusy, match="in use"):
        systemd.create(inner, NOTHING)
    assert len(scope.pids()) == 1
    assert created.joined is not None
    created.joined()


def test_other_limits_are_told_to_systemd(
    double: SystemdDouble, systemd: Systemd, inner: CgroupV2
) -> None:
    created = systemd.create(inner, NOTHING)
    systemd.changed(inner, SMALL)
    assert double.units["podwright-c1.scope"]["MemoryMax"] == 64 * MIB
    assert created.joined is not None
    created.joined()


def test_to_forget_what_is_not_there_is_no_error(double: SystemdDouble, systemd: Systemd) -> None:
    systemd.forget("podwright-unknown.scope")
    assert double.calls == ["StopUnit", "ResetFailedUnit"]


def test_a_pod_that_is_older_than_the_choice_of_systemd_goes_on_without(
    double: SystemdDouble, systemd: Systemd, v2: HierarchyV2
) -> None:
    group = v2.cgroup(fresh_path())
    assert systemd.create(group, NOTHING).joined is None
    assert systemd.enclose(group, NOTHING).joined is None
    systemd.changed(group, SMALL)
    assert double.calls == []
    group.remove()


def test_without_a_private_socket_the_system_bus_is_asked(tmp_path: Path) -> None:
    with SystemdDouble(tmp_path / "bus", on_bus=True) as double:
        with Bus(str(tmp_path / "none"), str(tmp_path / "bus")) as bus:
            assert bus.property("Version") == "252 (double)"
        assert double.calls == ["Hello", "AddMatch", "Subscribe", "Get"]


def test_a_systemd_that_is_silent_is_not_waited_for_without_end(tmp_path: Path) -> None:
    with SystemdDouble(tmp_path / "private") as double:
        double.silent = True
        began = time.monotonic()
        with (
            pytest.raises(SystemdUnavailable, match="in time"),
            Bus(str(tmp_path / "private"), patience=0.2) as bus,
        ):
            bus.property("Version")
        assert time.monotonic() - began < 10


def test_where_nobody_listens_both_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemdUnavailable, match=r"one: No such file.*two: No such file"):
        Bus(str(tmp_path / "one"), str(tmp_path / "two"))


# who is chosen


def unavailable() -> str:
    raise SystemdUnavailable("systemd can't be reached")


def test_systemd_is_chosen_where_it_is_the_init_and_answers(tmp_path: Path) -> None:
    booted, absent = str(tmp_path), str(tmp_path / "absent")

    def chosen(wanted: str, booted: str) -> str:
        return driver.choose(wanted, 2, booted=booted, answers=lambda: "252").driver

    assert chosen("auto", booted) == "systemd"
    assert chosen("auto", absent) == "cgroupfs"
    assert chosen("cgroupfs", booted) == "cgroupfs"
    assert chosen("systemd", booted) == "systemd"
    choice = driver.choose("auto", 2, booted=booted, answers=unavailable)
    assert (choice.driver, choice.broken) == ("cgroupfs", False)


def test_a_systemd_that_has_no_time_does_not_change_the_driver(tmp_path: Path) -> None:
    def silent() -> str:
        raise SystemdSilent("systemd has not answered in time")

    choice = driver.choose("auto", 2, booted=str(tmp_path), answers=silent)
    assert (choice.driver, choice.broken) == ("systemd", True)


def test_a_systemd_that_is_wanted_and_not_there_is_broken(tmp_path: Path) -> None:
    assert driver.choose("systemd", 2, booted=str(tmp_path / "absent")).broken
    assert driver.choose("systemd", 2, booted=str(tmp_path), answers=unavailable).broken


def test_systemd_is_not_asked_for_cgroups_of_version_1(tmp_path: Path) -> None:
    choice = driver.choose("auto", 1, booted=str(tmp_path), answers=lambda: "252")
    assert (choice.driver, choice.broken) == ("cgroupfs", False)
    assert "v1" in choice.reason
    assert driver.choose("systemd", 1, booted=str(tmp_path), answers=lambda: "252").broken


@pytest.mark.skipif(os.path.isdir(driver.BOOTED), reason="systemd is this machine's init")
def test_on_a_machine_without_systemd_its_driver_is_an_error_that_says_what_to_write() -> None:
    assert driver.driver("auto", HIERARCHY)[0].name == "cgroupfs"
    with pytest.raises(CgroupsUnusable, match='write "cgroupfs"'):
        driver.driver("systemd", HIERARCHY)


def test_the_cgroupfs_driver_leaves_units_to_systemd() -> None:
    with pytest.raises(InvalidSpec, match="cgroupDriver: cgroupfs"):
        driver.Cgroupfs().create(HIERARCHY.cgroup(INNER), limit())
    assert units.in_scope(INNER)
