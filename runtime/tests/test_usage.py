"""Reading what cgroups use: kept descriptors, rates, cgroups that vanish, and the real kernel's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroup.descriptors import CgroupGone, Descriptors
from runtime.cgroup.processes import look
from runtime.cgroup.tree import Cgroup
from runtime.cgroup.usage_v2 import FormatV2
from runtime.spec import Cpu, Memory, Pids
from runtime.tests.cgroup_driver import HIERARCHY, MIB, VERSION, fresh_path, limit, run, start
from runtime.tests.test_usage_formats import CGROUP, V2, laid_out
from runtime.usage import Reader, Usage, Usages, block_device

SECOND = 1_000_000_000
DIRECTORY = CGROUP[1:]


class Clock:
    """The monotonic clock, as a test sets it."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def descriptors_of(path: Path) -> int:
    """How many open files this process has below a directory."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{number}").startswith(f"{path}/")
    return count


def set_cpu(top: Path, microseconds: int) -> None:
    (top / DIRECTORY / "cpu.stat").write_text(f"usage_usec {microseconds}\n")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(tmp_path: Path, clock: Clock) -> Iterator[Reader]:
    """Of a cgroup v2 that lies in tmp_path."""
    laid_out(tmp_path, V2)
    reader = Reader(FormatV2(str(tmp_path)), Descriptors(1000), clock=clock)
    yield reader
    reader.close()
    assert descriptors_of(tmp_path) == 0


def rate(reader: Reader) -> int | None:
    return reader.usages([CGROUP])[CGROUP].rate


# --- rates --------------------------------------------------------------------------------------


def test_a_rate_needs_two_samples_a_second_apart(
    reader: Reader, tmp_path: Path, clock: Clock
) -> None:
    def at(now: int, microseconds: int) -> int | None:
        clock.now = now
        set_cpu(tmp_path, microseconds)
        return rate(reader)

    assert at(0, 1_000_000) is None
    assert at(SECOND // 2, 1_500_000) is None
    assert at(2 * SECOND, 2_000_000) == SECOND // 2  # a second of CPU time in two
    assert at(2 * SECOND + SECOND // 2, 9_000_000) == SECOND // 2  # too soon: still the old one
    assert at(4 * SECOND, 10_000_000) == 4 * SECOND


def test_a_cgroup_made_anew_starts_anew(reader: Reader, tmp_path: Path, clock: Clock) -> None:
    for now, microseconds, expected in (
        (0, 5_000_000, None),
        (2 * SECOND, 1_000, None),
        (4 * SECOND, 1_001_000, SECOND // 2),
    ):
        clock.now = now
        set_cpu(tmp_path, microseconds)
        assert rate(reader) == expected


# --- descriptors ----------------------------------------------------------------------------------


def test_descriptors_are_kept_and_let_go_of(reader: Reader, tmp_path: Path, clock: Clock) -> None:
    reader.usages([CGROUP])
    kept = descriptors_of(tmp_path)
    assert kept == 9
    reader.usages([CGROUP])
    assert descriptors_of(tmp_path) == kept
    reader.details([CGROUP])
    assert descriptors_of(tmp_path) > kept
    reader.forget(CGROUP)
    assert descriptors_of(tmp_path) == 0


def test_what_nobody_asks_for_any_more_is_let_go_of(
    reader: Reader, tmp_path: Path, clock: Clock
) -> None:
    reader.usages([CGROUP])
    clock.now = 301 * SECOND
    reader.usages([])
    assert descriptors_of(tmp_path) == 0


def test_beyond_the_most_files_are_read_all_the_same(tmp_path: Path) -> None:
    form = laid_out(tmp_path, V2)
    reader = Reader(form, Descriptors(3))
    for _ in range(3):
        found = reader.usages([CGROUP])[CGROUP]
        assert found.memory is not None
        assert found.io_pressure is not None
        assert descriptors_of(tmp_path) == 3
    reader.close()
    assert descriptors_of(tmp_path) == 0


def test_a_long_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "io.stat"
    path.write_bytes(b"8:0 rbytes=4096\n" * 2000)
    descriptors = Descriptors(1)
    for _ in range(2):
        assert descriptors.read("a", [str(path)]) == [path.read_bytes()]
    descriptors.close()


def test_what_cannot_be_read_is_left_out_and_spoils_nothing(reader: Reader, tmp_path: Path) -> None:
    broken = tmp_path / "kubepods/broken"
    broken.mkdir()
    (broken / "cpu.stat").write_text("usage_usec many\n")
    paths = ["/kubepods/unknown", "/kubepods/broken", "/a/../b", "", "/x.slice/y", CGROUP]
    assert set(reader.usages(paths)) == {CGROUP}
    assert set(reader.details(paths)) <= {CGROUP, "/kubepods/broken"}


# --- from the event loop --------------------------------------------------------------------------


class Gated(Reader):
    """Waits before it reads; counts how often it is asked."""

    def __init__(self, top: Path) -> None:
        super().__init__(FormatV2(str(top)), Descriptors(1000))
        self.gate = threading.Event()
        self.asked = 0
        self.threads: set[int] = set()

    def _usage(self, path: str) -> Usage:
        self.gate.wait(10)
        self.asked += 1
        self.threads.add(threading.get_ident())
        return super()._usage(path)


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    laid_out(tmp_path, V2)
    return Gated(tmp_path)


async def test_the_same_question_is_asked_once_at_a_time(gated: Gated) -> None:
    usages = Usages(lambda: gated)
    asked = [asyncio.ensure_future(usages.usages([CGROUP])) for _ in range(5)]
    await asyncio.sleep(0)
    gated.gate.set()
    answers = await asyncio.gather(*asked)
    assert gated.asked == 1
    assert all(answer[CGROUP].cpu.usage == 4_711_000_000 for answer in answers)
    await usages.usages([CGROUP])
    assert gated.asked == 2  # a later question is a new one
    assert gated.threads.isdisjoint({threading.get_ident()})
    await usages.close()


async def test_who_gives_up_takes_nobody_along(gated: Gated) -> None:
    usages = Usages(lambda: gated)
    first = asyncio.ensure_future(usages.usages([CGROUP]))
    second = asyncio.ensure_future(usages.usages([CGROUP]))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gated.gate.set()
    assert CGROUP in await second
    await usages.close()


async def test_the_loop_turns_while_cgroups_are_read(gated: Gated) -> None:
    usages = Usages(lambda: gated)
    asked = asyncio.ensure_future(usages.usages([CGROUP]))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not asked.done()
    gated.gate.set()
    await asked
    await usages.close()


async def test_closing_closes_every_descriptor(gated: Gated, tmp_path: Path) -> None:
    usages = Usages(lambda: gated)
    gated.gate.set()
    await usages.usages([CGROUP])
    await usages.details([CGROUP])
    usages.forget("/unknown")
    await usages.close()
    assert descriptors_of(tmp_path) == 0
    usages.forget(CGROUP)  # an exit that comes late
    await usages.close()


# --- the real kernel ------------------------------------------------------------------------------


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A container's cgroup in a pod's, made by the test."""
    pod = HIERARCHY.cgroup(fresh_path())
    yield HIERARCHY.cgroup(f"{pod.path}/container")
    pod.kill()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    pod.remove(timeout=20)


@pytest.fixture
def machine() -> Iterator[Reader]:
    reader = Reader.of_this_machine()
    yield reader
    reader.close()


@pytest.mark.root
def test_the_kernel_counts_what_a_process_uses(group: Cgroup, machine: Reader) -> None:
    group.create(limit(memory=Memory(limit=64 * MIB, swap=64 * MIB)))
    read_end, write_end = os.pipe()

    def work() -> None:
        own = socket.socket()  # beside those that a fork inherits
        held = bytearray(16 * MIB)
        held[::4096] = b"x" * (16 * MIB // 4096)
        for _ in range(3_000_000):
            pass
        os.write(write_end, b"x")
        os.read(answer_end, 1)
        own.close()

    answer_end, go = os.pipe()
    inherited = look([os.getpid()]).sockets
    pid, pipe = start(group, work)
    assert os.read(read_end, 1) == b"x"
    try:
        found = machine.usages([group.path])[group.path]
        assert found.cpu.usage > 5_000_000
        assert found.memory is not None
        assert 16 * MIB <= found.memory.rss <= found.memory.working_set <= 64 * MIB
        assert found.memory.limit == 64 * MIB
        assert found.memory.swap_limit in (0, None)  # None: no swap accounting
        assert found.memory.page_faults > 8  # 4000 without huge pages
        detail = machine.details([group.path])[group.path]
        assert detail.threads == 1
        assert detail.peak is None or detail.peak >= 16 * MIB
        assert machine.counts([group.path]) == {group.path: 1}
        processes = machine.processes([group.path])[group.path]
        assert processes.count == 1
        assert processes.descriptors is not None
        assert processes.descriptors >= 4
        assert inherited is not None
        assert processes.sockets == inherited + 1
        assert processes.open_files_limit is not None
    finally:
        os.write(go, b"x")
        os.waitpid(pid, 0)
        for number in (read_end, write_end, answer_end, go, pipe):
            os.close(number)


@pytest.mark.root
def test_limits_are_read_back_as_they_were_asked_for(group: Cgroup, machine: Reader) -> None:
    group.create(
        limit(
            memory=Memory(limit=64 * MIB, reservation=32 * MIB),
            cpu=Cpu(shares=1024, quota=50_000, period=20_000),
            pids=Pids(100),
        )
    )
    detail = machine.details([group.path])[group.path]
    assert (detail.limits.shares, detail.limits.quota, detail.limits.period) == (
        1024,
        50_000,
        20_000,
    )
    assert detail.limits.memory_reservation == 32 * MIB
    assert detail.threads_max == 100


@pytest.mark.root
def test_kills_for_want_of_memory_are_counted(group: Cgroup, machine: Reader) -> None:
    group.create(limit(memory=Memory(limit=16 * MIB, swap=16 * MIB)))
    assert machine.details([group.path])[group.path].oom_kills == 0
    run(group, lambda: len(bytearray(64 * MIB)))
    assert machine.details([group.path])[group.path].oom_kills == 1


@pytest.mark.root
def test_an_open_descriptor_keeps_no_cgroup_and_a_new_one_is_found(
    group: Cgroup, machine: Reader
) -> None:
    group.create(limit())
    pod = os.path.dirname(group.path)
    assert set(machine.usages([group.path, pod])) == {group.path, pod}
    machine.details([group.path, pod])
    group.remove(timeout=0)
    assert not group.exists()
    assert set(machine.usages([group.path, pod])) == {pod}
    assert set(machine.details([group.path, pod])) == {pod}
    group.create(limit())
    run(group, lambda: sum(range(1_000_000)))
    assert machine.usages([group.path])[group.path].cpu.usage > 0


@pytest.mark.root
def test_a_file_that_is_gone_is_told_from_one_that_never_was(group: Cgroup) -> None:
    group.create(limit())
    directory = f"/sys/fs/cgroup{'' if VERSION == 2 else '/pids'}{group.path}"
    descriptors = Descriptors(10)
    paths = [f"{directory}/pids.current", f"{directory}/no.such.file"]
    for _ in range(2):
        assert descriptors.read("a", paths) == [b"0\n", None]
    group.remove()
    with pytest.raises(CgroupGone):
        descriptors.read("a", paths)
    assert len(descriptors) == 0


def test_a_disk_has_a_name_and_nothing_has_none() -> None:
    assert block_device(0, 0) == ""
    disks = [path.read_text().strip() for path in Path("/sys/block").glob("*/dev")]
    names = {f"/dev/{path.parent.name}" for path in Path("/sys/block").glob("*/dev")}
    assert {block_device(*map(int, disk.split(":"))) for disk in disks} == names
