"""Resources become the right values for the right files, or an error that names the field."""

from __future__ import annotations

import pytest

from runtime.cgroup.files import checked_path
from runtime.cgroup.limits import cpu_weight, limits
from runtime.cgroup.units import refuse_units
from runtime.errors import InvalidSpec
from runtime.spec import (
    BlockIo,
    Cpu,
    HugepageLimit,
    Memory,
    Pids,
    Resources,
    Throttle,
    WeightDevice,
)

MIB = 1 << 20


def written(resources: Resources, version: int) -> list[str]:
    return [f"{setting.file}={setting.value}" for setting in limits(resources, version).settings]


EVERYTHING = Resources(
    memory=Memory(limit=64 * MIB, reservation=32 * MIB, swap=96 * MIB),
    cpu=Cpu(shares=512, quota=50_000, period=20_000, cpus="0-1", mems="0"),
    pids=Pids(100),
    hugepage_limits=(HugepageLimit("2MB", 4 * MIB),),
)


def test_everything_on_v1_in_the_order_the_kernel_accepts() -> None:
    assert written(EVERYTHING, 1) == [
        "memory.limit_in_bytes=67108864",
        "memory.memsw.limit_in_bytes=100663296",
        "memory.soft_limit_in_bytes=33554432",
        "cpu.shares=512",
        "cpu.cfs_period_us=20000",
        "cpu.cfs_quota_us=50000",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "pids.max=100",
        "hugetlb.2MB.limit_in_bytes=4194304",
        "hugetlb.2MB.rsvd.limit_in_bytes=4194304",
    ]


def test_everything_on_v2_with_swap_counted_alone() -> None:
    assert written(EVERYTHING, 2) == [
        "memory.swap.max=33554432",
        "memory.max=67108864",
        "memory.low=33554432",
        "cpu.weight=59",
        "cpu.max=50000 20000",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "pids.max=100",
        "hugetlb.2MB.max=4194304",
        "hugetlb.2MB.rsvd.max=4194304",
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_nothing_asked_for_writes_nothing(version: int) -> None:
    zeros = Resources(
        memory=Memory(limit=0, reservation=0, swap=0), cpu=Cpu(shares=0, quota=0, period=0)
    )
    assert written(Resources(), version) == []
    assert written(zeros, version) == []


@pytest.mark.parametrize(
    ("shares", "weight"),
    [
        (0, 1),
        (2, 1),
        (100, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262144, 10000),
        (1 << 40, 10000),
    ],
)
def test_shares_become_weights_with_defaults_kept(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


BLOCK_IO = BlockIo(
    weight=200,
    weight_device=(WeightDevice(8, 0, 50),),
    throttle_read_bps_device=(Throttle(8, 0, 1000), Throttle(8, 16, 2000)),
    throttle_write_iops_device=(Throttle(8, 0, 30),),
)


def test_block_io_has_a_line_a_disk() -> None:
    assert written(Resources(block_io=BLOCK_IO), 1) == [
        "blkio.bfq.weight=200",
        "blkio.bfq.weight_device=8:0 50",
        "blkio.throttle.read_bps_device=8:0 1000",
        "blkio.throttle.read_bps_device=8:16 2000",
        "blkio.throttle.write_iops_device=8:0 30",
    ]
    assert written(Resources(block_io=BLOCK_IO), 2) == [
        "io.bfq.weight=200",
        "io.bfq.weight=8:0 50",
        "io.max=8:0 rbps=1000",
        "io.max=8:16 rbps=2000",
        "io.max=8:0 wiops=30",
    ]


@pytest.mark.parametrize(("shares", "value"), [(1, 2), (2, 2), (262144, 262144)])
def test_shares_are_raised_to_what_v1_takes(shares: int, value: int) -> None:
    assert written(Resources(cpu=Cpu(shares=shares)), 1) == [f"cpu.shares={value}"]


@pytest.mark.parametrize(
    ("memory", "v1", "v2"),
    [
        (
            Memory(limit=-1),
            ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
            ["memory.swap.max=max", "memory.max=max"],
        ),
        (
            Memory(limit=MIB, swap=MIB),
            ["memory.limit_in_bytes=1048576", "memory.memsw.limit_in_bytes=1048576"],
            ["memory.swap.max=0", "memory.max=1048576"],
        ),
        (
            Memory(limit=MIB, swap=-1),
            ["memory.limit_in_bytes=1048576", "memory.memsw.limit_in_bytes=-1"],
            ["memory.swap.max=max", "memory.max=1048576"],
        ),
        (Memory(reservation=-1), ["memory.soft_limit_in_bytes=-1"], ["memory.low=max"]),
    ],
)
def test_memory_and_swap_mean_the_same_on_both(
    memory: Memory, v1: list[str], v2: list[str]
) -> None:
    assert written(Resources(memory=memory), 1) == v1
    assert written(Resources(memory=memory), 2) == v2


def test_quota_and_period_are_one_file_on_v2() -> None:
    assert written(Resources(cpu=Cpu(quota=-1)), 2) == ["cpu.max=max 100000"]
    assert written(Resources(cpu=Cpu(quota=-1)), 1) == ["cpu.cfs_quota_us=-1"]
    assert written(Resources(cpu=Cpu(period=10_000)), 2) == ["cpu.max=max 10000"]


def test_pids_without_limit_and_with_the_smallest() -> None:
    assert written(Resources(pids=Pids(-1)), 1) == ["pids.max=max"]
    assert written(Resources(pids=Pids(0)), 2) == ["pids.max=1"]


def test_unified_comes_last_and_line_by_line() -> None:
    resources = Resources(
        pids=Pids(5), unified={"memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 wbps=2"}
    )
    assert written(resources, 2) == [
        "pids.max=5",
        "memory.high=1000",
        "io.max=8:0 rbps=1",
        "io.max=8:16 wbps=2",
    ]


@pytest.mark.parametrize(
    ("resources", "version", "field", "words"),
    [
        (Resources(unified={"memory.high": "1"}), 1, "unified", "cgroup v1"),
        (Resources(unified={"../x.y": "1"}), 2, "unified.../x.y", "no file"),
        (Resources(unified={"cgroup.procs": "1"}), 2, "unified.cgroup.procs", "belong"),
        (Resources(memory=Memory(limit=-2)), 1, "memory.limit", "-2"),
        (Resources(memory=Memory(limit=1 << 64)), 2, "memory.limit", "bytes"),
        (Resources(memory=Memory(limit=2 * MIB, swap=MIB)), 2, "memory.swap", "below the limit"),
        (Resources(memory=Memory(swap=MIB)), 1, "memory.swap", "set the limit too"),
        (Resources(memory=Memory(disable_oom_killer=True)), 2, "memory.disableOOMKiller", "v2"),
        (Resources(cpu=Cpu(shares=-1)), 1, "cpu.shares", "-1"),
        (Resources(block_io=BlockIo(weight=9)), 1, "blockIO.weight", "10..1000"),
        (
            Resources(block_io=BlockIo(throttle_read_bps_device=(Throttle(8, 0, 0),))),
            2,
            "blockIO.throttleReadBpsDevice[0].rate",
            "0 is not above 0",
        ),
        (Resources(cpu=Cpu(shares=262145)), 2, "cpu.shares", "the kernel takes 2 to 262144"),
        (Resources(cpu=Cpu(shares=(1 << 63) - 1)), 1, "cpu.shares", "the kernel takes 2 to"),
        (
            Resources(hugepage_limits=(HugepageLimit("3MB", 0),)),
            2,
            "hugepageLimits[0].pageSize",
            "'3MB' is no size such as 2MB",
        ),
        (Resources(cpu=Cpu(quota=999)), 2, "cpu.quota", "1000"),
        (Resources(cpu=Cpu(quota=-2)), 2, "cpu.quota", "1000"),
        (Resources(cpu=Cpu(period=999)), 1, "cpu.period", "1000000"),
        (Resources(cpu=Cpu(cpus="0-1\n")), 1, "cpu.cpus", "list"),
        (Resources(cpu=Cpu(mems="node0")), 2, "cpu.mems", "list"),
        (Resources(pids=Pids(-2)), 1, "pids.limit", "-2"),
        (
            Resources(hugepage_limits=(HugepageLimit("2M/B", 0),)),
            1,
            "hugepageLimits[0].pageSize",
            "2MB",
        ),
        (
            Resources(hugepage_limits=(HugepageLimit("1GB", -1),)),
            2,
            "hugepageLimits[0].limit",
            "-1",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    resources: Resources, version: int, field: str, words: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        limits(resources, version)
    assert caught.value.path == f"linux.resources.{field}"
    assert words in caught.value.text


@pytest.mark.parametrize("path", ["/kubepods/pod1/abc", "/kubepods/pod1/abc/"])
def test_a_cgroup_path_loses_its_last_slash(path: str) -> None:
    assert checked_path(path) == "/kubepods/pod1/abc"


@pytest.mark.parametrize(
    "path",
    ["", "/", "relative", "/a/../../b", "/a//b", "/a/./b", "/a\nb", "/a\0b", "/" + "x" * 256],
)
def test_a_cgroup_path_cannot_leave_its_hierarchy(path: str) -> None:
    with pytest.raises(InvalidSpec, match=r"^linux\.cgroupsPath: "):
        checked_path(path)


@pytest.mark.parametrize("path", ["/kubepods.slice/kubepods-pod1.slice/x", "/a/cri-1.scope"])
def test_systemd_units_are_refused_with_the_setting_to_change(path: str) -> None:
    with pytest.raises(InvalidSpec, match="cgroupDriver: cgroupfs"):
        refuse_units(path)
