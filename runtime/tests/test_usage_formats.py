"""What the kernel's files say, version by version. Those of v2 lie in a directory as it has them:
this machine's own hierarchy may be v1."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cgroup import usage
from runtime.cgroup.descriptors import CgroupGone, Descriptors
from runtime.cgroup.limits import MAX_SHARES, MIN_SHARES, cpu_weight
from runtime.cgroup.usage import (
    CpuTime,
    Detail,
    DeviceIo,
    Format,
    Limits,
    Memory,
    Pressure,
    Stall,
    Usage,
)
from runtime.cgroup.usage_v1 import FormatV1
from runtime.cgroup.usage_v2 import FormatV2, cpu_shares

CGROUP = "/kubepods/pod1/c1"
NOW = 1_700_000_000_000_000_000
NOTHING = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"

V2 = {
    "cpu.stat": """usage_usec 4711000
user_usec 4000000
system_usec 711000
nice_usec 0
core_sched.force_idle_usec 0
nr_periods 120
nr_throttled 30
throttled_usec 2500000
nr_bursts 0
burst_usec 0
""",
    "memory.current": "33554432\n",
    "memory.stat": """anon 10485760
file 20971520
kernel 1048576
kernel_stack 98304
pagetables 139264
shmem 4096
file_mapped 8388608
file_dirty 0
inactive_anon 0
active_anon 10485760
inactive_file 12582912
active_file 8388608
unevictable 0
pgfault 5000
pgmajfault 7
workingset_refault_file 0
""",
    "memory.max": "67108864\n",
    "memory.swap.current": "2097152\n",
    "memory.swap.max": "16777216\n",
    "memory.peak": "41943040\n",
    "memory.low": "8388608\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n",
    "cpu.pressure": """some avg10=12.50 avg60=3.25 avg300=0.75 total=1500000
full avg10=1.00 avg60=0.50 avg300=0.25 total=250000
""",
    "memory.pressure": NOTHING + NOTHING.replace("some", "full"),
    "io.pressure": """some avg10=0.00 avg60=0.00 avg300=0.10 total=42
full avg10=0.00 avg60=0.00 avg300=0.05 total=21
""",
    "pids.current": "17\n",
    "pids.max": "max\n",
    "io.stat": """8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0
7:0 rbytes=0 wbytes=0 rios=0 wios=0 dbytes=4096 dios=1
254:16 rbytes=512 wbytes=0 rios=1 wios=0 dbytes=0 dios=0 cost.usage=3
""",
    "cpu.weight": "39\n",
    "cpu.max": "50000 100000\n",
}

V1 = {
    "cpuacct/cpuacct.usage": "4711000000\n",
    "cpuacct/cpuacct.usage_user": "4000000000\n",
    "cpuacct/cpuacct.usage_sys": "711000000\n",
    "cpu/cpu.stat": "nr_periods 120\nnr_throttled 30\nthrottled_time 2500000000\n",
    "cpu/cpu.shares": "512\n",
    "cpu/cpu.cfs_quota_us": "-1\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "memory/memory.usage_in_bytes": "33554432\n",
    "memory/memory.stat": """cache 1
rss 2
mapped_file 3
swap 0
pgfault 4
pgmajfault 5
inactive_file 6
active_file 7
hierarchical_memory_limit 67108864
hierarchical_memsw_limit 83886080
total_cache 20971520
total_rss 10485760
total_mapped_file 8388608
total_swap 2097152
total_pgfault 5000
total_pgmajfault 7
total_inactive_file 12582912
total_active_file 8388608
""",
    "memory/memory.max_usage_in_bytes": "41943040\n",
    "memory/memory.kmem.usage_in_bytes": "1048576\n",
    "memory/memory.failcnt": "5\n",
    "memory/memory.memsw.failcnt": "7\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory/memory.soft_limit_in_bytes": "9223372036854771712\n",
    "pids/pids.current": "17\n",
    "pids/pids.max": "max\n",
    "blkio/blkio.throttle.io_serviced_recursive": """8:0 Read 1
8:0 Write 2
8:0 Sync 3
8:0 Async 0
8:0 Discard 0
8:0 Total 3
Total 3
""",
    "blkio/blkio.throttle.io_service_bytes_recursive": """8:0 Read 4096
8:0 Write 8192
8:0 Total 12288
Total 12288
""",
}

MEMORY = Memory(
    usage=33554432,
    inactive_file=12582912,
    active_file=8388608,
    rss=10485760,
    cache=20971520,
    mapped_file=8388608,
    page_faults=5000,
    major_page_faults=7,
    limit=67108864,
    swap=2097152,
    swap_limit=16777216,
)


def laid_out(top: Path, files: dict[str, str], *, v1: bool = False) -> Format:
    """The files as the kernel has them, below `top`; and the format that finds them."""
    for name, text in files.items():
        controller, _, file = name.rpartition("/")
        path = top / controller / CGROUP[1:] / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if not v1:
        return FormatV2(str(top))
    return FormatV1({path.name: str(path) for path in top.iterdir()})


def read_usage(form: Format) -> Usage:
    descriptors = Descriptors(100)
    try:
        return form.usage(descriptors.read(CGROUP, form.usage_files(CGROUP)), NOW)
    finally:
        descriptors.close()


def read_detail(form: Format) -> Detail:
    descriptors = Descriptors(100)
    try:
        return form.detail(descriptors.read(CGROUP, form.detail_files(CGROUP)))
    finally:
        descriptors.close()


def stall(total: int, *averages: float) -> Stall:
    return Stall(total, *averages)


def test_v2_says_what_is_used(tmp_path: Path) -> None:
    found = read_usage(laid_out(tmp_path, V2))
    zero = stall(0, 0, 0, 0)
    assert found.timestamp == NOW
    assert found.cpu == CpuTime(
        4_711_000_000,
        Pressure(stall(1_500_000_000, 12.5, 3.25, 0.75), stall(250_000_000, 1, 0.5, 0.25)),
    )
    assert found.io_pressure == Pressure(stall(42_000, 0, 0, 0.1), stall(21_000, 0, 0, 0.05))
    assert found.memory is not None
    assert found.memory.pressure == Pressure(zero, zero)
    assert found.memory.working_set == 33554432 - 12582912
    assert found.memory.available == 67108864 - (33554432 - 12582912)
    assert found.memory.swap_available == 16777216 - 2097152
    assert found.memory.rss == 10485760


def test_v1_says_the_same_but_for_pressure(tmp_path: Path) -> None:
    found = read_usage(laid_out(tmp_path, V1, v1=True))
    assert found == Usage(NOW, CpuTime(4_711_000_000), MEMORY)


def test_v2_says_the_rest(tmp_path: Path) -> None:
    assert read_detail(laid_out(tmp_path, V2)) == Detail(
        user=4_000_000_000,
        system=711_000_000,
        periods=120,
        throttled_periods=30,
        throttled=2_500_000_000,
        peak=41943040,
        kernel=1048576,
        failures=12,
        oom_kills=2,
        threads=17,
        threads_max=None,
        io=(DeviceIo(254, 16, 1, 0, 512, 0), DeviceIo(8, 0, 1, 2, 4096, 8192)),
        limits=Limits(
            shares=cpu_shares(39), quota=50_000, period=100_000, memory_reservation=8388608
        ),
    )


def test_v1_says_the_rest(tmp_path: Path) -> None:
    assert read_detail(laid_out(tmp_path, V1, v1=True)) == Detail(
        user=4_000_000_000,
        system=711_000_000,
        periods=120,
        throttled_periods=30,
        throttled=2_500_000_000,
        peak=41943040,
        kernel=1048576,
        failures=12,
        oom_kills=2,
        threads=17,
        threads_max=None,
        io=(DeviceIo(8, 0, 1, 2, 4096, 8192),),
        limits=Limits(shares=512, quota=None, period=100_000, memory_reservation=None),
    )


def test_an_unlimited_cgroup_has_no_limit_in_either_version(tmp_path: Path) -> None:
    v2 = V2 | {"memory.max": "max\n", "memory.swap.max": "max\n", "cpu.max": "max 100000\n"}
    huge = str(2**63 - 4096)
    stat = V1["memory/memory.stat"].replace("67108864", huge).replace("83886080", huge)
    v1 = V1 | {"memory/memory.stat": stat}
    for form in (laid_out(tmp_path / "2", v2), laid_out(tmp_path / "1", v1, v1=True)):
        memory = read_usage(form).memory
        assert memory is not None
        assert (memory.limit, memory.available) == (None, None)
        assert (memory.swap_limit, memory.swap_available) == (None, None)
        assert read_detail(form).limits.quota is None


def test_a_kernel_without_swap_accounting_or_pressure_has_the_rest(tmp_path: Path) -> None:
    absent = ("memory.swap.current", "memory.swap.max", "memory.peak")
    v2 = {name: text for name, text in V2.items() if name not in absent}
    v2 = {name: text for name, text in v2.items() if not name.endswith("pressure")}
    found = read_usage(laid_out(tmp_path, v2))
    assert found.cpu.pressure is None
    assert found.io_pressure is None
    assert found.memory is not None
    assert (found.memory.swap, found.memory.swap_available) == (None, None)
    assert found.memory.working_set > 0
    assert read_detail(laid_out(tmp_path, v2)).peak is None


def test_a_memory_controller_that_is_not_there_leaves_cpu_time(tmp_path: Path) -> None:
    form = laid_out(tmp_path, {name: V2[name] for name in ("cpu.stat", "cpu.pressure")})
    found = read_usage(form)
    assert found.memory is None
    assert found.cpu.usage == 4_711_000_000
    assert read_detail(form).threads is None


def test_cpu_pressure_of_an_old_kernel_has_no_full(tmp_path: Path) -> None:
    found = read_usage(
        laid_out(tmp_path, V2 | {"cpu.pressure": V2["cpu.pressure"].split("full")[0]})
    )
    assert found.cpu.pressure is not None
    assert found.cpu.pressure.some.total == 1_500_000_000
    assert found.cpu.pressure.full == stall(0, 0, 0, 0)


def test_page_cache_may_be_more_than_what_is_charged_at_this_moment(tmp_path: Path) -> None:
    """The two numbers are read one after the other."""
    memory = read_usage(laid_out(tmp_path, V2 | {"memory.current": "4096\n"})).memory
    assert memory is not None
    assert memory.working_set == 0
    assert memory.available == memory.limit


def test_without_the_cgroup_there_is_nothing(tmp_path: Path) -> None:
    form = FormatV2(str(tmp_path))
    descriptors = Descriptors(100)
    with pytest.raises(CgroupGone):
        descriptors.read(CGROUP, form.usage_files(CGROUP))
    assert len(descriptors) == 0


@given(st.integers(MIN_SHARES, MAX_SHARES))
def test_shares_come_back_as_the_weight_that_they_became(shares: int) -> None:
    found = cpu_shares(cpu_weight(shares))
    assert cpu_weight(found) == cpu_weight(shares)
    assert found >= shares


def test_the_usual_shares_come_back_exactly() -> None:
    assert [cpu_shares(cpu_weight(shares)) for shares in (2, 1024, 262144)] == [2, 1024, 262144]


@given(st.binary(max_size=200))
def test_what_is_no_pressure_is_refused_or_empty(text: bytes) -> None:
    try:
        found = usage.pressure(text)
    except (ValueError, LookupError):
        return
    assert found is None or found.some.total >= 0 or b"total=-" in text


@given(st.binary(max_size=200))
def test_what_is_no_list_of_numbers_is_refused(text: bytes) -> None:
    try:
        found = usage.keyed(text)
    except ValueError:
        return
    assert all(isinstance(value, int) for value in found.values())
