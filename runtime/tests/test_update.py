"""A running container's limits on the real kernel: changed, refused, put back."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import update
from runtime.cgroup.driver import Cgroupfs
from runtime.cgroup.errors import CgroupRefused, MemoryInUse
from runtime.cgroup.tree import Cgroup
from runtime.errors import ContainerNotFound
from runtime.spec import Cpu, Memory, Resources
from runtime.tests.cgroup_driver import HIERARCHY, MIB, VERSION, fresh_path, limit, start, value
from runtime.update import Update

pytestmark = pytest.mark.root


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A container's cgroup, made with limits."""
    group = HIERARCHY.cgroup(fresh_path())
    group.create(limit(memory=Memory(limit=128 * MIB, swap=128 * MIB), cpu=Cpu(shares=512)))
    yield group
    group.kill()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass
    group.remove(timeout=20)


def memory(group: Cgroup) -> int:
    return int(value(group, "memory/memory.limit_in_bytes", "memory.max"))


def shares(group: Cgroup) -> str:
    return value(group, "cpu/cpu.shares", "cpu.weight")


def change(group: Cgroup, score: int | None = None, **resources: object) -> update.Updated:
    made = Resources(**resources)  # type: ignore[arg-type]  # by name
    return update.apply(HIERARCHY, Cgroupfs(), Update("c", group.path, made, score))


def holding(group: Cgroup, size: int, files: Path | None = None) -> int:
    """A process in the cgroup that has so many bytes; with `files`, as page cache of a file."""
    ready, told = os.pipe()
    os.set_inheritable(told, True)

    def hold() -> None:
        kept = bytearray(0)
        if files is None:
            kept = bytearray(os.urandom(4096)) * (size // 4096)
        else:
            (files / "cache").write_bytes(bytes(MIB) * (size // MIB))
            os.sync()
        os.write(told, b"in")
        signal.pause()
        del kept

    pid, read_end = start(group, hold)
    os.close(told)
    os.close(read_end)
    assert os.read(ready, 2) == b"in"
    os.close(ready)
    return pid


@pytest.mark.parametrize("size", [64 * MIB, 256 * MIB])
def test_memory_and_swap_move_together_up_and_down(group: Cgroup, size: int) -> None:
    done = change(group, memory=Memory(limit=size, swap=size))
    assert memory(group) == size
    update.put_back(HIERARCHY, Cgroupfs(), Update("c", group.path, Resources()), done)
    assert memory(group) == 128 * MIB


def test_a_limit_below_use_is_refused_and_nothing_is_changed(group: Cgroup) -> None:
    holding(group, 32 * MIB)
    before = shares(group)
    with pytest.raises(MemoryInUse) as raised:
        change(group, memory=Memory(limit=16 * MIB, swap=16 * MIB), cpu=Cpu(shares=2000))
    assert raised.value.used > 32 * MIB
    assert (memory(group), shares(group)) == (128 * MIB, before)


def test_page_cache_is_given_back_for_a_lower_limit(group: Cgroup, tmp_path: Path) -> None:
    holding(group, 64 * MIB, tmp_path)
    assert group.memory().current > 48 * MIB
    assert group.memory_held() < 32 * MIB
    change(group, memory=Memory(limit=32 * MIB, swap=32 * MIB))
    assert group.memory().current <= 32 * MIB
    assert group.oom_kills() == 0


def test_what_the_kernel_refuses_leaves_everything_as_it_was(group: Cgroup) -> None:
    before = shares(group)
    with pytest.raises(CgroupRefused, match="4095"):
        change(
            group,
            memory=Memory(limit=64 * MIB, swap=64 * MIB),
            cpu=Cpu(shares=2000, quota=50_000, period=100_000, cpus="4095"),
        )
    assert (memory(group), shares(group)) == (128 * MIB, before)
    if VERSION == 1:
        assert value(group, "cpu/cpu.cfs_quota_us", "") == "-1"
    else:
        assert value(group, "", "cpu.max") == "max 100000"


def score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_every_process_gets_the_score_and_its_own_back(group: Cgroup) -> None:
    pids = [holding(group, MIB) for _ in range(3)]
    Path(f"/proc/{pids[0]}/oom_score_adj").write_text("7")
    before = [score(pid) for pid in pids]
    done = change(group, score=321)
    assert [score(pid) for pid in pids] == [321] * 3
    assert done.notes == ()
    update.put_back(HIERARCHY, Cgroupfs(), Update("c", group.path, Resources()), done)
    assert [score(pid) for pid in pids] == before


def test_children_of_processes_that_fork_all_the_time_have_the_score(group: Cgroup) -> None:
    def fork() -> None:
        while True:
            if os.fork() == 0:
                os._exit(0)
            os.wait()

    start(group, fork)
    deadline = time.monotonic() + 20
    while len(group.pids()) < 2 and time.monotonic() < deadline:
        os.sched_yield()
    change(group, score=500)
    for _ in range(100):
        for pid in group.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                assert score(pid) == 500


def test_a_container_that_has_ended_is_not_found(group: Cgroup) -> None:
    other = HIERARCHY.cgroup(fresh_path())
    with pytest.raises(ContainerNotFound):
        change(other, memory=Memory(limit=64 * MIB, swap=64 * MIB), cpu=Cpu(shares=100))
    assert not other.exists()
    assert change(other, score=5).scores == {}
