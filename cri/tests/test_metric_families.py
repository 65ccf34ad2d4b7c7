"""Metrics: names and labels that cAdvisor's users know, numbers where there are any."""

from __future__ import annotations

import re

import pytest

from cri.api import api_pb2 as api
from cri.rpc import metric_families
from cri.rpc.metric_families import BASE_LABELS, FAMILIES, NETWORK_FAMILIES, Facts
from image.writable import FileSystem, Occupancy
from network.result import Traffic
from runtime.cgroup.usage import (
    CpuTime,
    Detail,
    DeviceIo,
    Limits,
    Memory,
    Pressure,
    Stall,
    Usage,
)
from runtime.usage import Processes

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
LABELS = ("/kubepods/pod1/c1", "c1", "busybox:1", "main", "web", "default")
PRESSURE = Pressure(Stall(7 * SECOND, 1, 1, 1), Stall(3 * SECOND, 1, 1, 1))
MEMORY = Memory(
    usage=100, inactive_file=30, active_file=20, rss=40, cache=50, mapped_file=10,
    page_faults=7, major_page_faults=2, limit=200, swap=5, swap_limit=50, pressure=PRESSURE,
)  # fmt: skip
USAGE = Usage(NOW, CpuTime(90 * SECOND + 1, PRESSURE), MEMORY, PRESSURE)
DETAIL = Detail(
    user=60 * SECOND, system=30 * SECOND, periods=9, throttled_periods=4, throttled=2 * SECOND,
    peak=150, kernel=12, failures=3, oom_kills=1, threads=8, threads_max=None,
    io=(DeviceIo(8, 0, 1, 2, 4096, 8192), DeviceIo(8, 16, 3, 4, 512, 1024)),
    limits=Limits(shares=512, quota=50_000, period=100_000, memory_reservation=64),
)  # fmt: skip
WHOLE = Facts(
    USAGE,
    lambda major, minor: f"/dev/{major}-{minor}",
    detail=DETAIL,
    processes=Processes(3, 30, 2, 1024),
    written=Occupancy(5000, 6, True, NOW, 0.1),
    disk=FileSystem(1 << 30, 1000, 900, 8, 0),
    started_at=NOW - 100 * SECOND,
)

# What kubelet's own conformance test of /metrics/cadvisor wants to see of every container.
WANTED = """
cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total
cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total file_descriptors
fs_reads_bytes_total fs_reads_total fs_usage_bytes fs_writes_bytes_total fs_writes_total last_seen
memory_cache memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes
memory_rss memory_swap memory_usage_bytes memory_working_set_bytes oom_events_total processes
sockets spec_cpu_period spec_cpu_shares spec_memory_limit_bytes
spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes start_time_seconds threads
threads_max ulimits_soft
""".split()  # noqa: SIM905 - a table is easier to read


def series(metrics: list[api.Metric]) -> dict[tuple[str, ...], int]:
    """By name and the labels that are the family's own."""
    own = len(BASE_LABELS)
    return {(one.name, *one.label_values[own:]): one.value.value for one in metrics}


def test_every_metric_is_described_once_with_its_labels() -> None:
    described = metric_families.descriptors()
    labels = {one.name: tuple(one.label_keys) for one in described}
    assert len(labels) == len(described) == len(FAMILIES) + len(NETWORK_FAMILIES)
    traffic = {"eth0": Traffic(), "net1": Traffic()}
    made = metric_families.metrics(WHOLE, LABELS)
    made += metric_families.network_metrics(traffic, LABELS, NOW)
    assert {one.name for one in made} == set(labels)
    for one in made:
        assert len(one.label_values) == len(labels[one.name])
        assert tuple(one.label_values[: len(LABELS)]) == LABELS
    keys = [(one.name, *one.label_values) for one in made]
    assert len(set(keys)) == len(keys)


def test_every_name_is_one_that_prometheus_takes() -> None:
    for one in metric_families.descriptors():
        assert re.fullmatch(r"container_[a-z0-9_]+", one.name)
        assert one.help.endswith(".")
        assert all(re.fullmatch("[a-z_]+", key) for key in one.label_keys)


def test_what_kubelet_asks_of_a_runtime_is_there() -> None:
    names = {one.name for one in metric_families.metrics(WHOLE, LABELS)}
    assert {f"container_{name}" for name in WANTED} <= names


def test_numbers_are_where_their_names_say() -> None:
    found = series(metric_families.metrics(WHOLE, LABELS))
    expected: dict[tuple[str, ...], int] = {
        ("cpu_usage_seconds_total", "total"): 90,
        ("cpu_user_seconds_total",): 60,
        ("cpu_system_seconds_total",): 30,
        ("cpu_cfs_throttled_seconds_total",): 2,
        ("memory_working_set_bytes",): 70,
        ("memory_max_usage_bytes",): 150,
        ("memory_failcnt",): 3,
        ("memory_failures_total", "pgfault", "container"): 7,
        ("memory_failures_total", "pgmajfault", "hierarchy"): 2,
        ("oom_events_total",): 1,
        ("fs_usage_bytes", "/dev/8-0"): 5000,
        ("fs_limit_bytes", "/dev/8-0"): 1 << 30,
        ("fs_inodes_free", "/dev/8-0"): 900,
        ("fs_reads_bytes_total", "/dev/8-0"): 4096,
        ("fs_writes_total", "/dev/8-16"): 4,
        ("blkio_device_usage_total", "/dev/8-16", "8", "16", "Write"): 1024,
        ("threads_max",): 0,
        ("ulimits_soft", "max_open_files"): 1024,
        ("spec_cpu_quota",): 50_000,
        ("spec_memory_limit_bytes",): 200,
        ("spec_memory_reservation_limit_bytes",): 64,
        ("spec_memory_swap_limit_bytes",): 50,
        ("pressure_cpu_waiting_seconds_total",): 7,
        ("pressure_memory_stalled_seconds_total",): 3,
        ("pressure_io_waiting_seconds_total",): 7,
        ("start_time_seconds",): 1_699_999_900,
        ("last_seen",): 1_700_000_000,
    }
    for key, value in expected.items():
        assert found[(f"container_{key[0]}", *key[1:])] == value, key


def test_counters_are_counters() -> None:
    for one in metric_families.metrics(WHOLE, LABELS):
        counted = one.name.endswith("_total") and "inodes" not in one.name
        if one.name not in ("container_memory_failcnt",):
            assert (one.metric_type == api.COUNTER) == counted, one.name


def test_what_is_not_known_is_left_out() -> None:
    """cgroup v1 without swap accounting, and a controller that isn't mounted."""
    bare = Facts(Usage(NOW, CpuTime(SECOND)), lambda *_: "")
    names = {one.name for one in metric_families.metrics(bare, LABELS)}
    assert names == {"container_cpu_usage_seconds_total", "container_last_seen"}


@pytest.mark.parametrize("way", ["receive", "transmit"])
def test_the_network_is_counted_by_interface(way: str) -> None:
    traffic = {"eth0": Traffic(1, 2, 3, 4, 5, 6, 7, 8), "net1": Traffic()}
    found = series(metric_families.network_metrics(traffic, LABELS, NOW))
    first = {"receive": (1, 3, 5, 7), "transmit": (2, 4, 6, 8)}[way]
    for what, value in zip(("packets", "bytes", "errors", "packets_dropped"), first, strict=True):
        assert found[(f"container_network_{way}_{what}_total", "eth0")] == value
        assert found[(f"container_network_{way}_{what}_total", "net1")] == 0
