"""Which metrics there are, and where each has its numbers. Pure.

Names, labels and meanings are cAdvisor's, so that dashboards go on working. CRI's values are whole
numbers: what is called seconds is whole seconds, cut. A family without a number is left out of an
answer, not zero. cAdvisor's load average and task states are not here: kubelet has them switched
off. Nor are huge pages, which nobody here counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from image.writable import FileSystem, Occupancy
    from network.result import Traffic
    from runtime.usage import Detail, DeviceIo, Memory, Processes, Stall, Usage

BASE_LABELS: Final = ("id", "name", "image", "container", "pod", "namespace")
_COUNTER, _GAUGE = api.COUNTER, api.GAUGE
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one cgroup. device: (major, minor) -> the name of a disk's device file."""

    usage: Usage
    device: Callable[[int, int], str]
    detail: Detail | None = None
    processes: Processes | None = None
    written: Occupancy | None = None
    disk: FileSystem | None = None
    started_at: int = 0  # ns since the epoch; 0: unknown


Values = Iterator[tuple[tuple[str, ...], int | None]]  # values of a family's own labels; the number


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. labels: those it has beside BASE_LABELS."""

    name: str
    help: str
    type: api.MetricType
    values: Callable[[Facts], Values]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkFamily:
    """One metric of interfaces."""

    name: str
    help: str
    value: Callable[[Traffic], int]
    labels: tuple[str, ...] = ("interface",)


# --- where numbers come from ----------------------------------------------------------------------


def _of_usage(take: Callable[[Usage], int], facts: Facts, labels: tuple[str, ...] = ()) -> Values:
    yield labels, take(facts.usage)


def _of_memory(take: Callable[[Memory], int | None], facts: Facts) -> Values:
    if facts.usage.memory is not None:
        yield (), take(facts.usage.memory)


def _of_detail(take: Callable[[Detail], int | None], facts: Facts) -> Values:
    if facts.detail is not None:
        yield (), take(facts.detail)


def _of_processes(take: Callable[[Processes], int | None], facts: Facts) -> Values:
    if facts.processes is not None:
        yield (), take(facts.processes)


def _failures(facts: Facts) -> Values:
    """cAdvisor tells a cgroup from all beneath it; these are with all beneath it, as on its v2."""
    memory = facts.usage.memory
    if memory is not None:
        for scope in ("container", "hierarchy"):
            yield ("pgfault", scope), memory.page_faults
            yield ("pgmajfault", scope), memory.major_page_faults


def _of_disk(take: Callable[[FileSystem], int], facts: Facts) -> Values:
    if facts.disk is not None:
        yield (facts.device(facts.disk.major, facts.disk.minor),), take(facts.disk)


def _written(facts: Facts) -> Values:
    if facts.written is not None and facts.disk is not None:
        yield (facts.device(facts.disk.major, facts.disk.minor),), facts.written.bytes


def _of_devices(take: Callable[[DeviceIo], int], facts: Facts) -> Values:
    for io in facts.detail.io if facts.detail else ():
        yield (facts.device(io.major, io.minor),), take(io)


def _blkio(facts: Facts) -> Values:
    for io in facts.detail.io if facts.detail else ():
        labels = facts.device(io.major, io.minor), str(io.major), str(io.minor)
        yield (*labels, "Read"), io.read_bytes
        yield (*labels, "Write"), io.written_bytes


def _ulimits(facts: Facts) -> Values:
    if facts.processes is not None:
        yield ("max_open_files",), facts.processes.open_files_limit


def _started(facts: Facts) -> Values:
    if facts.started_at:
        yield (), facts.started_at // _SECOND


def _stalled(take: Callable[[Usage], Stall | None], facts: Facts) -> Values:
    stall = take(facts.usage)
    if stall is not None:
        yield (), stall.total // _SECOND


def _pressure(resource: str, kind: str, usage: Usage) -> Stall | None:
    memory = usage.memory
    found = {
        "cpu": usage.cpu.pressure,
        "memory": None if memory is None else memory.pressure,
        "io": usage.io_pressure,
    }[resource]
    if found is None:
        return None
    return found.full if kind == "stalled" else found.some


# --- the families ---------------------------------------------------------------------------------


def _usage(name: str, text: str, take: Callable[[Usage], int]) -> Family:
    return Family(name, text, _GAUGE, partial(_of_usage, take))


def _memory(name: str, text: str, take: Callable[[Memory], int | None]) -> Family:
    return Family(f"container_memory_{name}", text, _GAUGE, partial(_of_memory, take))


def _spec(name: str, text: str, values: Callable[[Facts], Values]) -> Family:
    return Family(f"container_spec_{name}", text, _GAUGE, values)


def _count(name: str, text: str, take: Callable[[Detail], int | None]) -> Family:
    return Family(f"container_{name}", text, _COUNTER, partial(_of_detail, take))


def _process(name: str, text: str, take: Callable[[Processes], int | None]) -> Family:
    return Family(f"container_{name}", text, _GAUGE, partial(_of_processes, take))


def _disk(name: str, text: str, take: Callable[[FileSystem], int]) -> Family:
    return Family(f"container_fs_{name}", text, _GAUGE, partial(_of_disk, take), ("device",))


def _device(name: str, text: str, take: Callable[[DeviceIo], int]) -> Family:
    return Family(f"container_fs_{name}", text, _COUNTER, partial(_of_devices, take), ("device",))


def _stalls() -> Iterator[Family]:
    for resource, what in (("cpu", "CPU time"), ("memory", "memory"), ("io", "I/O")):
        for kind, who in (("waiting", "Some task"), ("stalled", "Every task")):
            name = f"container_pressure_{resource}_{kind}_seconds_total"
            text = f"{who} of the container waited for {what}, in seconds."
            take = partial(_pressure, resource, kind)
            yield Family(name, text, _COUNTER, partial(_stalled, take))


FAMILIES: Sequence[Family] = (
    Family(
        "container_cpu_usage_seconds_total",
        "CPU time used, in seconds.",
        _COUNTER,
        partial(_of_usage, lambda usage: usage.cpu.usage // _SECOND, labels=("total",)),
        ("cpu",),
    ),
    _count("cpu_user_seconds_total", "CPU time in programs.", lambda d: d.user // _SECOND),
    _count("cpu_system_seconds_total", "CPU time in the kernel.", lambda d: d.system // _SECOND),
    _count("cpu_cfs_periods_total", "Periods in which a quota counted.", lambda d: d.periods),
    _count(
        "cpu_cfs_throttled_periods_total",
        "Periods in which the quota was used up.",
        lambda d: d.throttled_periods,
    ),
    _count(
        "cpu_cfs_throttled_seconds_total",
        "Time spent waiting for the next period.",
        lambda d: d.throttled // _SECOND,
    ),
    _memory("usage_bytes", "Memory in use, page cache included.", lambda m: m.usage),
    _memory("working_set_bytes", "Memory without unused page cache.", lambda m: m.working_set),
    _memory("rss", "Anonymous memory, in bytes.", lambda m: m.rss),
    _memory("cache", "Page cache, in bytes.", lambda m: m.cache),
    _memory("mapped_file", "Files mapped into memory, in bytes.", lambda m: m.mapped_file),
    _memory("swap", "Swap in use, in bytes.", lambda m: m.swap),
    _memory("total_active_file_bytes", "Page cache in active use.", lambda m: m.active_file),
    _memory("total_inactive_file_bytes", "Page cache not in use.", lambda m: m.inactive_file),
    Family(
        "container_memory_max_usage_bytes",
        "The most memory that was in use.",
        _GAUGE,
        partial(_of_detail, lambda detail: detail.peak),
    ),
    Family(
        "container_memory_kernel_usage",
        "Memory that the kernel uses for the container.",
        _GAUGE,
        partial(_of_detail, lambda detail: detail.kernel),
    ),
    _count("memory_failcnt", "How often the memory limit was met.", lambda d: d.failures),
    Family(
        "container_memory_failures_total",
        "Page faults.",
        _COUNTER,
        _failures,
        ("failure_type", "scope"),
    ),
    _count("oom_events_total", "Processes killed for want of memory.", lambda d: d.oom_kills),
    Family(
        "container_fs_usage_bytes",
        "What the container has written, when it was counted last.",
        _GAUGE,
        _written,
        ("device",),
    ),
    _disk("limit_bytes", "Size of the file system.", lambda disk: disk.bytes),
    _disk("inodes_total", "Inodes of the file system.", lambda disk: disk.inodes),
    _disk("inodes_free", "Inodes that are free.", lambda disk: disk.inodes_free),
    _device("reads_total", "Read operations.", lambda io: io.reads),
    _device("reads_bytes_total", "Bytes read.", lambda io: io.read_bytes),
    _device("writes_total", "Write operations.", lambda io: io.writes),
    _device("writes_bytes_total", "Bytes written.", lambda io: io.written_bytes),
    Family(
        "container_blkio_device_usage_total",
        "Bytes read from and written to block devices.",
        _COUNTER,
        _blkio,
        ("device", "major", "minor", "operation"),
    ),
    _process("processes", "Processes.", lambda p: p.count),
    _process("file_descriptors", "Open file descriptors.", lambda p: p.descriptors),
    _process("sockets", "Open sockets.", lambda p: p.sockets),
    Family(
        "container_threads",
        "Threads.",
        _GAUGE,
        partial(_of_detail, lambda detail: detail.threads),
    ),
    Family(
        "container_threads_max",
        "The most threads that are allowed; 0: as many as it likes.",
        _GAUGE,
        partial(_of_detail, lambda detail: detail.threads_max or 0),
    ),
    Family(
        "container_ulimits_soft",
        "Soft limits of the first process.",
        _GAUGE,
        _ulimits,
        ("ulimit",),
    ),
    _spec(
        "cpu_shares", "Share of the CPU.", partial(_of_detail, lambda detail: detail.limits.shares)
    ),
    _spec(
        "cpu_period",
        "Period of the CPU quota, in microseconds.",
        partial(_of_detail, lambda detail: detail.limits.period),
    ),
    _spec(
        "cpu_quota",
        "CPU time in a period, in microseconds.",
        partial(_of_detail, lambda detail: detail.limits.quota),
    ),
    _spec(
        "memory_limit_bytes",
        "Memory limit; 0: none.",
        partial(_of_memory, lambda memory: memory.limit or 0),
    ),
    _spec(
        "memory_reservation_limit_bytes",
        "Memory that is kept for the container; 0: none.",
        partial(_of_detail, lambda detail: detail.limits.memory_reservation or 0),
    ),
    _spec(
        "memory_swap_limit_bytes",
        "Swap limit; 0: none.",
        partial(_of_memory, lambda memory: memory.swap_limit or 0),
    ),
    *_stalls(),
    Family(
        "container_start_time_seconds", "When it was started, since the epoch.", _GAUGE, _started
    ),
    _usage(
        "container_last_seen",
        "When these numbers were read, since the epoch.",
        lambda usage: usage.timestamp // _SECOND,
    ),
)


def _network() -> Iterator[NetworkFamily]:
    takes: Sequence[tuple[str, str, Callable[[Traffic], int]]] = (
        ("receive_bytes", "Bytes received.", lambda t: t.rx_bytes),
        ("receive_packets", "Packets received.", lambda t: t.rx_packets),
        ("receive_packets_dropped", "Packets dropped on the way in.", lambda t: t.rx_dropped),
        ("receive_errors", "Errors on the way in.", lambda t: t.rx_errors),
        ("transmit_bytes", "Bytes sent.", lambda t: t.tx_bytes),
        ("transmit_packets", "Packets sent.", lambda t: t.tx_packets),
        ("transmit_packets_dropped", "Packets dropped on the way out.", lambda t: t.tx_dropped),
        ("transmit_errors", "Errors on the way out.", lambda t: t.tx_errors),
    )
    for name, text, take in takes:
        yield NetworkFamily(f"container_network_{name}_total", text, take)


NETWORK_FAMILIES: Sequence[NetworkFamily] = tuple(_network())


def descriptors() -> list[api.MetricDescriptor]:
    """What ListMetricDescriptors answers: labels in the order of the metrics' values."""
    kinds: tuple[Sequence[Family | NetworkFamily], ...] = (FAMILIES, NETWORK_FAMILIES)
    return [
        api.MetricDescriptor(
            name=family.name, help=family.help, label_keys=(*BASE_LABELS, *family.labels)
        )
        for kind in kinds
        for family in kind
    ]


def metrics(facts: Facts, labels: tuple[str, ...]) -> list[api.Metric]:
    """All that is known of a cgroup. labels: values of BASE_LABELS."""
    at = facts.usage.timestamp
    return [
        api.Metric(
            name=family.name,
            timestamp=at,
            metric_type=family.type,
            label_values=(*labels, *more),
            value={"value": value},
        )
        for family in FAMILIES
        for more, value in family.values(facts)
        if value is not None
    ]


def network_metrics(
    traffic: Mapping[str, Traffic], labels: tuple[str, ...], timestamp: int
) -> list[api.Metric]:
    """Of all interfaces of a pod, by name."""
    return [
        api.Metric(
            name=family.name,
            timestamp=timestamp,
            metric_type=_COUNTER,
            label_values=(*labels, name),
            value={"value": family.value(found)},
        )
        for name, found in sorted(traffic.items())
        for family in NETWORK_FAMILIES
    ]
