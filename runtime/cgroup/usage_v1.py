"""Where cgroup v1 keeps the numbers. Pure.

memory.stat has each number twice: the cgroup's own, and, as total_…, with those beneath it. It also
has the lowest limit on the way up, so that no other file is needed for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from runtime.cgroup.usage import (
    UNLIMITED,
    Contents,
    CpuTime,
    Detail,
    DeviceIo,
    Limits,
    Memory,
    Usage,
    devices,
    keyed,
    limit,
    number,
)

_USAGE: Final = (
    ("cpuacct", "cpuacct.usage"),
    ("memory", "memory.usage_in_bytes"),
    ("memory", "memory.stat"),
)
_DETAIL: Final = (
    ("cpuacct", "cpuacct.usage_user"),
    ("cpuacct", "cpuacct.usage_sys"),
    ("cpu", "cpu.stat"),
    ("memory", "memory.max_usage_in_bytes"),
    ("memory", "memory.kmem.usage_in_bytes"),
    ("memory", "memory.failcnt"),
    ("memory", "memory.memsw.failcnt"),
    ("memory", "memory.oom_control"),
    ("memory", "memory.soft_limit_in_bytes"),
    ("pids", "pids.current"),
    ("pids", "pids.max"),
    ("blkio", "blkio.throttle.io_serviced_recursive"),
    ("blkio", "blkio.throttle.io_service_bytes_recursive"),
    ("cpu", "cpu.shares"),
    ("cpu", "cpu.cfs_quota_us"),
    ("cpu", "cpu.cfs_period_us"),
)
_IO: Final = {b"Read": ("reads", "read_bytes"), b"Write": ("writes", "written_bytes")}


@dataclass(frozen=True, slots=True)
class FormatV1:
    """mounts: controller -> mount point."""

    mounts: Mapping[str, str]

    def usage_files(self, cgroup: str) -> list[str]:
        """A controller that isn't mounted has a path where no file is."""
        return [f"{self._mount(name)}{cgroup}/{file}" for name, file in _USAGE]

    def detail_files(self, cgroup: str) -> list[str]:
        return [f"{self._mount(name)}{cgroup}/{file}" for name, file in _DETAIL]

    def directory(self, cgroup: str) -> str:
        return f"{self.mounts.get('pids') or self._mount('memory')}{cgroup}"

    def _mount(self, controller: str) -> str:
        return self.mounts.get(controller, f"/sys/fs/cgroup/{controller}")

    def usage(self, contents: Contents, timestamp: int) -> Usage:
        """See `Format.usage`."""
        usage, current, stat = contents
        memory = None
        if current is not None and stat is not None:
            memory = _memory(int(current), keyed(stat))
        return Usage(timestamp, CpuTime(number(usage)), memory)

    def detail(self, contents: Contents) -> Detail:
        """See `Format.detail`."""
        user, system, cpu, peak, kernel, failures, both_failures, oom, soft, *rest = contents
        threads, threads_max, operations, sizes, shares, quota, period = rest
        throttling = keyed(cpu)
        return Detail(
            user=number(user),
            system=number(system),
            periods=throttling.get(b"nr_periods", 0),
            throttled_periods=throttling.get(b"nr_throttled", 0),
            throttled=throttling.get(b"throttled_time", 0),
            peak=limit(peak),
            kernel=limit(kernel),
            # where the two limits are one, as kubelet has them, the second is met first
            failures=number(failures) + number(both_failures),
            oom_kills=keyed(oom).get(b"oom_kill", 0),
            threads=limit(threads),
            threads_max=limit(threads_max),
            io=_io(operations, sizes),
            limits=Limits(limit(shares), limit(quota), limit(period), limit(soft)),
        )


def _memory(usage: int, stat: Mapping[bytes, int]) -> Memory:
    """Without swap accounting there is no number of swap, nor of its limit."""
    bytes_limit = stat.get(b"hierarchical_memory_limit", UNLIMITED)
    both_limit = stat.get(b"hierarchical_memsw_limit", UNLIMITED)
    limited = bytes_limit < UNLIMITED
    return Memory(
        usage=usage,
        inactive_file=stat.get(b"total_inactive_file", 0),
        active_file=stat.get(b"total_active_file", 0),
        rss=stat.get(b"total_rss", 0),
        cache=stat.get(b"total_cache", 0),
        mapped_file=stat.get(b"total_mapped_file", 0),
        page_faults=stat.get(b"total_pgfault", 0),
        major_page_faults=stat.get(b"total_pgmajfault", 0),
        limit=bytes_limit if limited else None,
        swap=stat.get(b"total_swap"),
        swap_limit=max(both_limit - bytes_limit, 0) if both_limit < UNLIMITED else None,
    )


def _io(operations: bytes | None, sizes: bytes | None) -> tuple[DeviceIo, ...]:
    """Lines "8:0 Read 123", and at the end "Total 123"."""
    counts: dict[bytes, dict[str, int]] = {}
    for position, text in enumerate((operations, sizes)):
        for line in (text or b"").splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in _IO:
                counts.setdefault(words[0], {})[_IO[words[1]][position]] = int(words[2])
    return devices(counts)
