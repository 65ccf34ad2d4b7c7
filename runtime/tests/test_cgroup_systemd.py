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
from runtime.cgroup.limits import Limits, Setting
from runtime.cgroup.systemd import Systemd
from runtime.cgroup.tree import Cgroup
from runtime.errors import InvalidSpec
from runtime.spec import Memory, Pids
from runtime.tests.cgroup_driver import HIERARCHY, MIB, VERSION, limit, run, start_sleeper
from runtime.tests.systemd_double import SYSTEMD, Refusal, SystemdDouble

pytestmark = pytest.mark.root
SLICE = f"podwrighttest{os.getpid()}.slice"
SCOPE = f"/{SLICE}/podwright-c1.scope"
INNER = f"{SCOPE}/container"


@pytest.fixture
def double(tmp_path: Path) -> Iterator[SystemdDouble]:
    with SystemdDouble(tmp_path / "private") as double:
        yield double
    HIERARCHY.cgroup(f"/{SLICE}").remove(timeout=20)


@pytest.fixture
def systemd(double: SystemdDouble, tmp_path: Path) -> Systemd:
    assert double.calls == []
    return Systemd(HIERARCHY, lambda: Bus(str(tmp_path / "private"), "/nowhere"))


@pytest.fixture
def scope() -> Cgroup:
    """systemd's; the container's is in it."""
    return HIERARCHY.cgroup(SCOPE)


@pytest.fixture
def inner() -> Cgroup:
    return HIERARCHY.cgroup(INNER)


def seats(group: Cgroup) -> list[int]:
    def is_seat(pid: int) -> bool:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"podwright-seat")

    return [pid for pid in group.pids() if is_seat(pid)]


def test_a_place_is_kept_in_a_scope_until_the_first_process_is_inside(
    double: SystemdDouble, systemd: Systemd, scope: Cgroup, inner: Cgroup
) -> None:
    created = systemd.create(inner, limit(memory=Memory(limit=64 * MIB)))
    (seat,) = seats(scope)
    told = double.units["podwright-c1.scope"]
    assert told["Slice"] == SLICE
    assert told["Delegate"] is True
    assert told["MemoryMax" if VERSION == 2 else "MemoryLimit"] == 64 * MIB
    first = start_sleeper(inner)
    assert created.joined is not None
    created.joined()
    assert scope.pids() == inner.pids() == [first]
    assert not Path(f"/proc/{seat}").exists()
    created.joined()  # may be repeated
    scope.kill()
    os.waitpid(first, 0)


def test_who_keeps_the_place_takes_none_from_the_container(
    systemd: Systemd, scope: Cgroup, inner: Cgroup
) -> None:
    wanted = limit(pids=Pids(limit=1))
    created = systemd.create(inner, wanted)
    assert run(inner, lambda: "it began")[0] == "it began"
    assert created.joined is not None
    created.joined()
    assert inner.value(wanted.settings[0]) == "1"


def test_a_limit_that_the_kernel_refuses_leaves_no_scope(
    double: SystemdDouble, systemd: Systemd, scope: Cgroup, inner: Cgroup
) -> None:
    impossible = Limits((Setting("linux.resources.x", "memory", "memory.no_such_file", "1"),))
    with pytest.raises(CgroupRefused, match=r"linux\.resources\.x"):
        systemd.create(inner, impossible)
    assert double.units == {}
    assert not scope.exists()


def test_what_systemd_refuses_is_told_in_its_words(
    double: SystemdDouble, systemd: Systemd, scope: Cgroup, inner: Cgroup
) -> None:
    double.refuses["StartTransientUnit"] = Refusal(f"{SYSTEMD}.BadUnitSetting", "no such property")
    with pytest.raises(SystemdRefused, match=r"podwright-c1\.scope: no such property"):
        systemd.create(inner, limit())


@pytest.mark.parametrize("signal_first", [False, True])
def test_a_job_that_fails_is_a_refusal(
    double: SystemdDouble, systemd: Systemd, inner: Cgroup, signal_first: bool
) -> None:
    double.result, double.signal_first = "timeout", signal_first
    with pytest.raises(SystemdRefused, match="ended as 'timeout'"):
        systemd.create(inner, limit())


def test_a_job_may_end_before_its_number_is_told(
    double: SystemdDouble, systemd: Systemd, scope: Cgroup, inner: Cgroup
) -> None:
    double.signal_first = True
    created = systemd.create(inner, limit())
    assert len(seats(scope)) == 1
    assert created.joined is not None
    created.joined()


def test_an_empty_scope_that_a_crash_left_is_replaced(
    double: SystemdDouble, systemd: Systemd, scope: Cgroup, inner: Cgroup
) -> None:
    first = systemd.create(inner, limit())
    assert first.joined is not None
    first.joined()
    assert scope.pids() == []
    second = systemd.create(inner, limit())
    assert len(seats(scope)) == 1
    assert second.joined is not None
    second.joined()


def test_a_scope_in_which_processes_live_is_never_replaced(
    systemd: Systemd, scope: Cgroup, inner: Cgroup
) -> None:
    created = systemd.create(inner, limit())
    with pytest.raises(CgroupBusy, match="in use"):
        systemd.create(inner, limit())
    assert len(seats(scope)) == 1
    assert created.joined is not None
    created.joined()


def test_other_limits_are_told_to_systemd_and_written_exactly(
    double: SystemdDouble, systemd: Systemd, scope: Cgroup, inner: Cgroup
) -> None:
    created = systemd.create(inner, limit())
    wanted = limit(memory=Memory(limit=32 * MIB))
    inner.update(wanted)
    systemd.changed(inner, wanted)
    told = double.units["podwright-c1.scope"]
    assert told["MemoryMax" if VERSION == 2 else "MemoryLimit"] == 32 * MIB
    assert created.joined is not None
    created.joined()


def test_to_forget_what_is_not_there_is_no_error(double: SystemdDouble, systemd: Systemd) -> None:
    systemd.forget("podwright-unknown.scope")
    assert double.calls == ["StopUnit", "ResetFailedUnit"]


def test_a_pod_that_is_older_than_the_choice_of_systemd_goes_on_without(
    double: SystemdDouble, systemd: Systemd
) -> None:
    group = HIERARCHY.cgroup(f"/podwright-cgroup-test-{os.getpid()}-old")
    assert systemd.create(group, limit()).joined is None
    systemd.changed(group, limit(memory=Memory(limit=32 * MIB)))
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
        return driver.choose(wanted, booted=booted, answers=lambda: "252").driver

    assert chosen("auto", booted) == "systemd"
    assert chosen("auto", absent) == "cgroupfs"
    assert chosen("cgroupfs", booted) == "cgroupfs"
    assert chosen("systemd", booted) == "systemd"
    choice = driver.choose("auto", booted=booted, answers=unavailable)
    assert (choice.driver, choice.broken) == ("cgroupfs", False)


def test_a_systemd_that_has_no_time_does_not_change_the_driver(tmp_path: Path) -> None:
    def silent() -> str:
        raise SystemdSilent("systemd has not answered in time")

    choice = driver.choose("auto", booted=str(tmp_path), answers=silent)
    assert (choice.driver, choice.broken) == ("systemd", True)


def test_a_systemd_that_is_wanted_and_not_there_is_broken(tmp_path: Path) -> None:
    assert driver.choose("systemd", booted=str(tmp_path / "absent")).broken
    assert driver.choose("systemd", booted=str(tmp_path), answers=unavailable).broken


@pytest.mark.skipif(os.path.isdir(driver.BOOTED), reason="systemd is this machine's init")
def test_on_a_machine_without_systemd_its_driver_is_an_error_that_says_what_to_write() -> None:
    assert driver.driver("auto", HIERARCHY)[0].name == "cgroupfs"
    with pytest.raises(CgroupsUnusable, match='write "cgroupfs"'):
        driver.driver("systemd", HIERARCHY)


def test_the_cgroupfs_driver_leaves_units_to_systemd() -> None:
    with pytest.raises(InvalidSpec, match="cgroupDriver: cgroupfs"):
        driver.Cgroupfs().create(HIERARCHY.cgroup(INNER), limit())
    assert units.in_scope(INNER)
