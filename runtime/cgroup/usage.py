"""What a cgroup uses, as values, and the formats in which the kernel says it. Pure.

`Usage` is what everybody asks for all the time, a few files; `Detail` is the rest of what cAdvisor
shows. Bytes, nanoseconds and counts; None where the kernel doesn't say. Which files: usage_v1.py,
usage_v2.py. See Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst. Only the daemon loads this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Contents = Sequence[bytes | None]  # of files, in the order asked for; None: there is no such file
UNLIMITED = 1 << 62  # v1 writes the largest number of pages, in bytes, for "no limit"


@dataclass(frozen=True, slots=True)
class Stall:
    """How long tasks waited: ns in all; percent over the last 10, 60 and 300 seconds."""

    total: int
    avg10: float
    avg60: float
    avg300: float


@dataclass(frozen=True, slots=True)
class Pressure:
    """some: at least one task waited; full: all of them did. See Documentation/accounting/psi.rst.

    Per cgroup on v2 alone.
    """

    some: Stall
    full: Stall


@dataclass(frozen=True, slots=True)
class CpuTime:
    """ns since the cgroup was made."""

    usage: int
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, cgroups beneath included. limit, swap_limit: None: unlimited; swap: None: not counted.

    swap_limit: of swap alone. limit: the lowest of its own and those above it, on v1; its own, on
    v2.
    """

    usage: int
    inactive_file: int
    active_file: int
    rss: int
    cache: int
    mapped_file: int
    page_faults: int
    major_page_faults: int
    limit: int | None = None
    swap: int | None = None
    swap_limit: int | None = None
    pressure: Pressure | None = None

    @property
    def working_set(self) -> int:
        """What can't be had back by dropping page cache that nobody uses: kubelet evicts by it."""
        return max(self.usage - self.inactive_file, 0)

    @property
    def available(self) -> int | None:
        """What may still be used; None where nothing limits it."""
        return None if self.limit is None else max(self.limit - self.working_set, 0)

    @property
    def swap_available(self) -> int | None:
        """As `available`, of swap."""
        if self.swap_limit is None or self.swap is None:
            return None
        return max(self.swap_limit - self.swap, 0)


@dataclass(frozen=True, slots=True)
class Usage:
    """timestamp: ns since the epoch. rate: of CPU time, in 1e-9 cores; None before two samples."""

    timestamp: int
    cpu: CpuTime
    memory: Memory | None = None
    io_pressure: Pressure | None = None
    rate: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """What was read from and written to one block device, in operations and bytes."""

    major: int
    minor: int
    reads: int = 0
    writes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """As the kernel has them; None: no limit, or no such file. quota, period: µs of CPU time."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    memory_reservation: int | None = None


@dataclass(frozen=True, slots=True)
class Detail:
    """user, system, throttled: ns. failures: how often a limit of memory was met."""

    user: int = 0
    system: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0
    peak: int | None = None
    kernel: int | None = None
    failures: int | None = None
    oom_kills: int = 0
    threads: int | None = None
    threads_max: int | None = None
    io: tuple[DeviceIo, ...] = ()
    limits: Limits = Limits()


class Format(Protocol):
    """Where a version of cgroups keeps the numbers, and how to read them."""

    def usage_files(self, cgroup: str) -> list[str]:
        """Paths; the first is the one without which there is no cgroup."""

    def detail_files(self, cgroup: str) -> list[str]: ...

    def usage(self, contents: Contents, timestamp: int) -> Usage:
        """From what is in `usage_files`. Raises ValueError if that is no such file."""

    def detail(self, contents: Contents) -> Detail:
        """From what is in `detail_files`. Raises ValueError if that is no such file."""

    def directory(self, cgroup: str) -> str:
        """Where its processes are listed."""


def keyed(text: bytes | None) -> dict[bytes, int]:
    """A file of lines "key number"."""
    words = (text or b"").split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def number(text: bytes | None, default: int = 0) -> int:
    """A file that holds one number; `default` for no file."""
    return default if text is None else int(text)


def limit(text: bytes | None) -> int | None:
    """A file that holds a limit: "max" is none, and so is v1's largest number, or a negative."""
    if text is None or text.strip() == b"max":
        return None
    value = int(text)
    return value if 0 <= value < UNLIMITED else None


def pressure(text: bytes | None) -> Pressure | None:
    """A pressure file: "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", and "full …".

    Before Linux 5.13 a cgroup's CPU pressure had no line "full".
    """
    if not text:
        return None
    stalls: dict[bytes, Stall] = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        values = dict(field.split(b"=", 1) for field in fields)
        stalls[kind] = Stall(
            int(values[b"total"]) * 1000,
            float(values[b"avg10"]),
            float(values[b"avg60"]),
            float(values[b"avg300"]),
        )
    if b"some" not in stalls:
        raise ValueError(f"no line of pressure: {text[:80]!r}")
    return Pressure(stalls[b"some"], stalls.get(b"full", Stall(0, 0.0, 0.0, 0.0)))


def devices(counts: Mapping[bytes, Mapping[str, int]]) -> tuple[DeviceIo, ...]:
    """Counts by "major:minor", as values; devices of which nothing is counted are left out."""
    found = []
    for name, fields in sorted(counts.items()):
        if any(fields.values()):
            major, _, minor = name.partition(b":")
            found.append(DeviceIo(int(major), int(minor), **fields))
    return tuple(found)
