"""cgroups on the real kernel, v1 or v2 as the machine has it: limits hold, kill and remove work."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroup import files
from runtime.cgroup.errors import CgroupBusy, CgroupRefused
from runtime.cgroup.limits import Limits, Setting
from runtime.cgroup.tree import Cgroup
from runtime.spec import Cpu, DeviceRule, HugepageLimit, Memory, Pids
from runtime.tests.cgroup_driver import (
    DENY,
    HIERARCHY,
    KMSG,
    MIB,
    UNIFIED,
    VERSION,
    fresh_path,
    limit,
    open_device,
    run,
    start,
    start_sleeper,
    value,
)

pytestmark = pytest.mark.root


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A container's cgroup in a pod's, neither made yet."""
    pod = HIERARCHY.cgroup(fresh_path())
    yield HIERARCHY.cgroup(f"{pod.path}/container")
    pod.kill()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    pod.remove(timeout=20)
    assert not pod.exists()


def test_the_kernel_has_the_limits_that_were_asked_for(group: Cgroup) -> None:
    wanted = limit(
        memory=Memory(limit=64 * MIB, reservation=32 * MIB),
        cpu=Cpu(shares=512, quota=50_000, period=20_000, cpus="0", mems="0"),
        pids=Pids(100),
    )
    assert group.create(wanted) == ()
    assert value(group, "memory/memory.limit_in_bytes", "memory.max") == "67108864"
    assert value(group, "memory/memory.soft_limit_in_bytes", "memory.low") == "33554432"
    assert value(group, "pids/pids.max", "pids.max") == "100"
    assert value(group, "cpuset/cpuset.cpus", "cpuset.cpus") == "0"
    if VERSION == 2:
        assert value(group, "", "cpu.max") == "50000 20000"
        assert value(group, "", "cpu.weight") == "59"
    else:
        assert value(group, "cpu/cpu.cfs_quota_us", "") == "50000"
        assert value(group, "cpu/cpu.cfs_period_us", "") == "20000"
        assert value(group, "cpu/cpu.shares", "") == "512"


def test_a_process_joins_without_being_moved_by_its_pid(group: Cgroup) -> None:
    group.create(limit())
    answer, status = run(group, lambda: Path("/proc/self/cgroup").read_text())
    assert status == 0
    lines = [line.split(":", 2) for line in answer.splitlines()]
    if VERSION == 2:
        assert [path for _, _, path in lines] == [group.path]
    else:
        joined = {
            name for _, names, path in lines for name in names.split(",") if path == group.path
        }
        assert joined == set(HIERARCHY.controllers)


@pytest.mark.skipif(VERSION == 2, reason="v2 inherits by itself")
def test_a_cpuset_is_filled_from_the_parent(group: Cgroup) -> None:
    group.create(limit())
    for file in ("cpuset.cpus", "cpuset.mems"):
        assert value(group, f"cpuset/{file}", "") == files.read(f"/sys/fs/cgroup/cpuset/{file}")


def test_the_pids_limit_holds(group: Cgroup) -> None:
    group.create(limit(pids=Pids(1)))
    assert run(group, lambda: os._exit(1) if os.fork() == 0 else "forked")[0] == "EAGAIN"


def test_out_of_memory_is_counted(group: Cgroup) -> None:
    group.create(limit(memory=Memory(limit=16 * MIB, swap=16 * MIB)))
    assert group.oom_kills() == 0
    _, status = run(group, lambda: len(bytearray(64 * MIB)))
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert group.oom_kills() == 1
    usage = group.memory()
    assert 0 <= usage.current <= 16 * MIB
    assert VERSION == 2 or 8 * MIB < usage.peak <= 16 * MIB


def test_counting_in_a_cgroup_that_is_not_there_gives_nothing(group: Cgroup) -> None:
    assert group.oom_kills() == 0
    assert group.pids() == []
    group.kill()
    group.remove()
    assert not group.exists()


@pytest.mark.parametrize(
    ("rules", "null", "kmsg"),
    [
        ((), "opened", "EPERM"),
        ((DENY,), "opened", "EPERM"),
        ((DENY, KMSG), "opened", "opened"),
        ((DENY, DeviceRule(allow=True)), "opened", "opened"),
        ((DeviceRule(allow=True), DENY), "opened", "EPERM"),
    ],
)
def test_device_rules_hold(
    group: Cgroup, rules: tuple[DeviceRule, ...], null: str, kmsg: str
) -> None:
    group.create(limit(devices=rules))
    assert run(group, open_device(1, 3))[0] == null
    assert run(group, open_device(1, 11))[0] == kmsg


def test_kill_catches_processes_that_fork_all_the_time(group: Cgroup) -> None:
    group.create(limit(pids=Pids(64)))

    def bomb() -> None:
        while True:
            with contextlib.suppress(OSError):
                os.fork()

    pid, read_end = start(group, bomb)
    deadline = time.monotonic() + 20
    while len(group.pids()) < 32 and time.monotonic() < deadline:
        os.sched_yield()
    assert len(group.pids()) >= 32
    group.kill()
    os.waitpid(pid, 0)
    group.remove(timeout=20)
    assert not group.exists()
    os.close(read_end)


def test_kill_reaches_cgroups_beneath(group: Cgroup) -> None:
    group.create(limit())
    inner = HIERARCHY.cgroup(f"{group.path}/inner/most")
    inner.create(limit())
    pid = start_sleeper(inner)
    assert group.pids() == [pid]
    group.kill()
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_remove_takes_what_is_beneath_and_can_be_repeated(group: Cgroup) -> None:
    group.create(limit())
    HIERARCHY.cgroup(f"{group.path}/inner/most").ensure()
    group.remove()
    assert not group.exists()
    group.remove()


def test_remove_names_the_processes_that_keep_it(group: Cgroup) -> None:
    group.create(limit())
    pid = start_sleeper(group)
    with pytest.raises(CgroupBusy, match=rf"processes {pid}$") as caught:
        group.remove(timeout=0)
    assert caught.value.pids == (pid,)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    group.remove()


def test_remove_waits_for_a_process_that_is_ending(group: Cgroup) -> None:
    group.create(limit())
    read_end, write_end = os.pipe()
    pid, answer = start(group, lambda: os.read(read_end, 1))
    os.close(answer)
    helper = os.fork()
    if helper == 0:  # lets it go only when remove is already waiting, or will be at once
        os.write(write_end, b"x")
        os._exit(0)
    group.remove(timeout=20)
    assert not group.exists()
    for child in (pid, helper):
        os.waitpid(child, 0)
    os.close(read_end)
    os.close(write_end)


def test_an_empty_leftover_is_replaced_and_a_living_one_refused(group: Cgroup) -> None:
    group.create(limit(pids=Pids(7)))
    group.create(limit())
    assert value(group, "pids/pids.max", "pids.max") == "max"
    pid = start_sleeper(group)
    with pytest.raises(CgroupBusy, match="already exists, and is in use") as caught:
        group.create(limit())
    assert caught.value.pids == (pid,)
    assert group.pids() == [pid]


def test_limits_can_be_raised_and_lowered(group: Cgroup) -> None:
    group.create(limit(memory=Memory(limit=16 * MIB, swap=16 * MIB), cpu=Cpu(quota=10_000)))
    for size in (64 * MIB, 8 * MIB):
        group.update(limit(memory=Memory(limit=size, swap=size)))
        assert value(group, "memory/memory.limit_in_bytes", "memory.max") == str(size)
    group.update(limit(cpu=Cpu(quota=20_000, period=50_000)))
    assert value(group, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "20000"


def test_a_refused_value_is_named_with_the_parents_and_undone(group: Cgroup) -> None:
    with pytest.raises(CgroupRefused) as caught:
        group.create(limit(cpu=Cpu(cpus="0-8000")))
    error = caught.value
    assert error.field == "linux.resources.cpu.cpus"
    assert error.file.endswith(f"{group.path}/cpuset.cpus")
    assert error.value == "0-8000"
    assert "choose from what the parent cgroup has (the parent has cpuset.cpus" in str(error)
    assert not group.exists()


def test_a_quota_above_the_parents_is_explained(group: Cgroup) -> None:
    if VERSION == 2:
        pytest.skip("v2 takes any quota and applies the smaller one")
    parent = HIERARCHY.cgroup(os.path.dirname(group.path))
    parent.create(limit(cpu=Cpu(quota=10_000)))
    with pytest.raises(CgroupRefused, match=r"parent cgroup's share of time .*'10000'"):
        group.create(limit(cpu=Cpu(quota=20_000)))


def test_a_hugepage_limit_without_the_controller_is_told_of(group: Cgroup) -> None:
    notes = group.create(limit(hugepage_limits=(HugepageLimit("2MB", 0),)))
    if "hugetlb" in HIERARCHY.controllers:
        assert notes == ()
    else:
        (note,) = notes  # once, though it is two files
        assert note.startswith("linux.resources.hugepageLimits[0].limit: not limited")


def test_an_unknown_file_of_unified_is_refused(group: Cgroup) -> None:
    setting = Setting("linux.resources.unified.memory.none", "memory", "memory.none", "1")
    with pytest.raises(
        CgroupRefused, match=r"^linux\.resources\.unified\.memory\.none: writing '1'"
    ):
        group.create(Limits((setting,)))


def test_a_missing_controller_is_refused(group: Cgroup) -> None:
    with pytest.raises(CgroupRefused, match=r"^linux\.resources\.none: writing '1'"):
        group.create(Limits((Setting("linux.resources.none", "none", "none.max", "1"),)))


def test_ensure_keeps_what_is_there(group: Cgroup) -> None:
    group.create(limit(pids=Pids(7)))
    group.ensure()
    assert value(group, "pids/pids.max", "pids.max") == "7"


def test_usage_can_be_read_by_others(group: Cgroup) -> None:
    group.create(limit())
    directory = f"{UNIFIED if VERSION == 2 else '/sys/fs/cgroup/memory'}{group.path}"
    assert os.stat(directory).st_mode & 0o777 == 0o755
    assert os.stat(f"{directory}/memory.stat").st_mode & 0o444 == 0o444
