"""Where cgroup v2 keeps the numbers. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from typing import Final

from runtime.cgroup.limits import MAX_SHARES, MIN_SHARES, cpu_weight
from runtime.cgroup.usage import (
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
    pressure,
)

_USAGE: Final = (
    "cpu.stat",
    "memory.current",
    "memory.stat",
    "memory.max",
    "memory.swap.current",
    "memory.swap.max",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
)
_DETAIL: Final = (
    "cpu.stat",
    "memory.stat",
    "memory.peak",
    "memory.events",
    "memory.low",
    "pids.current",
    "pids.max",
    "io.stat",
    "cpu.weight",
    "cpu.max",
)
_IO: Final = {
    b"rios": "reads",
    b"wios": "writes",
    b"rbytes": "read_bytes",
    b"wbytes": "written_bytes",
}


@dataclass(frozen=True, slots=True)
class FormatV2:
    """mount: where cgroup2 is mounted."""

    mount: str

    def usage_files(self, cgroup: str) -> list[str]:
        return [f"{self.mount}{cgroup}/{file}" for file in _USAGE]

    def detail_files(self, cgroup: str) -> list[str]:
        return [f"{self.mount}{cgroup}/{file}" for file in _DETAIL]

    def directory(self, cgroup: str) -> str:
        return f"{self.mount}{cgroup}"

    def usage(self, contents: Contents, timestamp: int) -> Usage:
        """See `Format.usage`."""
        cpu, current, stat, maximum, swap, swap_max, cpu_psi, memory_psi, io_psi = contents
        time = CpuTime(keyed(cpu).get(b"usage_usec", 0) * 1000, pressure(cpu_psi))
        memory = None
        if current is not None and stat is not None:
            numbers = keyed(stat)
            memory = Memory(
                usage=int(current),
                inactive_file=numbers.get(b"inactive_file", 0),
                active_file=numbers.get(b"active_file", 0),
                rss=numbers.get(b"anon", 0),
                cache=numbers.get(b"file", 0),
                mapped_file=numbers.get(b"file_mapped", 0),
                page_faults=numbers.get(b"pgfault", 0),
                major_page_faults=numbers.get(b"pgmajfault", 0),
                limit=limit(maximum),
                swap=limit(swap),
                swap_limit=limit(swap_max),
                pressure=pressure(memory_psi),
            )
        return Usage(timestamp, time, memory, pressure(io_psi))

    def detail(self, contents: Contents) -> Detail:
        """See `Format.detail`."""
        cpu, stat, peak, events, low, threads, threads_max, io, weight, cpu_max = contents
        time, happened = keyed(cpu), keyed(events)
        quota, period = _cpu_max(cpu_max)
        return Detail(
            user=time.get(b"user_usec", 0) * 1000,
            system=time.get(b"system_usec", 0) * 1000,
            periods=time.get(b"nr_periods", 0),
            throttled_periods=time.get(b"nr_throttled", 0),
            throttled=time.get(b"throttled_usec", 0) * 1000,
            peak=limit(peak),
            kernel=keyed(stat).get(b"kernel"),  # since Linux 5.18
            failures=happened.get(b"max"),
            oom_kills=happened.get(b"oom_kill", 0),
            threads=limit(threads),
            threads_max=limit(threads_max),
            io=_io(io),
            limits=Limits(
                shares=None if weight is None else cpu_shares(int(weight)),
                quota=quota,
                period=period,
                memory_reservation=limit(low),
            ),
        )


@cache
def cpu_shares(weight: int) -> int:
    """The most of v1's shares that this weight can stand for: what was asked, or about that."""
    shares = range(MIN_SHARES, MAX_SHARES + 1)
    return shares[max(bisect_right(shares, weight, key=cpu_weight) - 1, 0)]


def _cpu_max(text: bytes | None) -> tuple[int | None, int | None]:
    """ "50000 100000", or "max 100000"."""
    if text is None:
        return None, None
    quota, period = text.split()
    return limit(quota), int(period)


def _io(text: bytes | None) -> tuple[DeviceIo, ...]:
    """Lines "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6"; more may follow."""
    counts: dict[bytes, dict[str, int]] = {}
    for line in (text or b"").splitlines():
        name, *fields = line.split()
        for field in fields:
            key, _, value = field.partition(b"=")
            if key in _IO:
                counts.setdefault(name, {})[_IO[key]] = int(value)
    return devices(counts)
