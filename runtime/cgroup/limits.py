"""What a spec's resources come to: values for the kernel's files, in the order it accepts them.

Pure: no file is read here. Zero and None both mean "not asked for", as the CRI has it, except
where the specification gives zero a meaning. Units: bytes, microseconds, shares.
https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.cgroup import devices
from runtime.errors import InvalidSpec
from runtime.spec import (
    BlockIo,
    Cpu,
    DeviceRule,
    HugepageLimit,
    Memory,
    Pids,
    Resources,
    Throttle,
)

PREFIX = "linux.resources"
MIN_SHARES, MAX_SHARES = 2, 262144  # the kernel's bounds of cpu.shares
DEFAULT_PERIOD = 100_000
MIN_PERIOD, MAX_PERIOD = 1_000, 1_000_000
MIN_QUOTA = 1_000
UNLIMITED = -1

_CPU_LIST = re.compile(r"[0-9]+(-[0-9]+(:[0-9]+/[0-9]+)?)?(,[0-9]+(-[0-9]+(:[0-9]+/[0-9]+)?)?)*")
_PAGE_SIZE = re.compile(r"[1-9][0-9]*[KMG]B")
_UNIFIED_FILE = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z0-9_-]+)+")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value for one file of a cgroup's directory.

    field: the spec's field it comes from, for error messages; optional: a kernel without this
    file (no swap accounting, no hugetlb) is told of, not failed at.
    """

    field: str
    controller: str
    file: str
    value: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """settings: in the order in which they are written; devices: checked rules, last one wins."""

    settings: tuple[Setting, ...] = ()
    devices: tuple[DeviceRule, ...] = ()


def limits(resources: Resources, version: int) -> Limits:
    """The limits for cgroup `version` 1 or 2. Raises InvalidSpec naming the field that can't be."""
    rules = devices.checked(resources.devices)
    if version == 1:
        devices.policy(rules)  # refuse now what v1 can't express
        return Limits(tuple(_v1(resources)), rules)
    return Limits(tuple(_v2(resources)), rules)


def _v1(resources: Resources) -> Iterator[Setting]:
    if resources.unified:
        raise InvalidSpec(
            f"{PREFIX}.unified",
            "this machine has cgroup v1, and these are files of cgroup v2 "
            f"({', '.join(sorted(resources.unified))}): use the other fields, or boot with "
            "systemd.unified_cgroup_hierarchy=1",
        )
    if resources.memory:
        yield from _v1_memory(resources.memory)
    if resources.cpu:
        yield from _v1_cpu(resources.cpu)
        yield from _cpuset(resources.cpu)
    if resources.pids:
        yield from _pids(resources.pids)
    if resources.block_io:
        yield from _v1_block_io(resources.block_io)
    for index, page in enumerate(resources.hugepage_limits):
        yield from _hugetlb(page, index, "limit_in_bytes")


def _v2(resources: Resources) -> Iterator[Setting]:
    if resources.memory:
        yield from _v2_memory(resources.memory)
    if resources.cpu:
        yield from _v2_cpu(resources.cpu)
        yield from _cpuset(resources.cpu)
    if resources.pids:
        yield from _pids(resources.pids)
    if resources.block_io:
        yield from _v2_block_io(resources.block_io)
    for index, page in enumerate(resources.hugepage_limits):
        yield from _hugetlb(page, index, "max")
    yield from _unified(resources)


# --- memory ---------------------------------------------------------------------------------


def _memory_numbers(memory: Memory) -> tuple[int, int, int]:
    """(limit, reservation, swap) with 0 for "not asked for"; swap counts memory and swap."""
    limit, reservation, swap = memory.limit or 0, memory.reservation or 0, memory.swap or 0
    path = f"{PREFIX}.memory"
    for name, number in (("limit", limit), ("reservation", reservation), ("swap", swap)):
        if not UNLIMITED <= number < 1 << 63:
            raise InvalidSpec(f"{path}.{name}", f"{number} is no number of bytes (-1: no limit)")
    if limit == UNLIMITED and not swap:
        swap = UNLIMITED  # else the old swap limit would go on limiting memory
    if swap > 0 and limit <= 0:
        raise InvalidSpec(f"{path}.swap", f"{swap} bytes with no {path}.limit: set the limit too")
    if 0 < swap < limit:
        raise InvalidSpec(
            f"{path}.swap",
            f"{swap} counts memory and swap together and must not be below the limit, {limit}",
        )
    return limit, reservation, swap


def _v1_memory(memory: Memory) -> Iterator[Setting]:
    limit, reservation, swap = _memory_numbers(memory)
    path = f"{PREFIX}.memory"
    # The kernel wants limit <= memsw at any moment; a fresh cgroup's memsw is unlimited.
    if limit:
        yield Setting(f"{path}.limit", "memory", "memory.limit_in_bytes", str(limit))
    if swap:
        yield Setting(
            f"{path}.swap", "memory", "memory.memsw.limit_in_bytes", str(swap), optional=True
        )
    if reservation:
        yield Setting(
            f"{path}.reservation", "memory", "memory.soft_limit_in_bytes", str(reservation)
        )
    if memory.disable_oom_killer is not None:
        off = str(int(memory.disable_oom_killer))
        yield Setting(f"{path}.disableOOMKiller", "memory", "memory.oom_control", off)
    if memory.kernel_tcp is not None:
        if not UNLIMITED <= memory.kernel_tcp < 1 << 63:
            text = f"{memory.kernel_tcp} is no number of bytes (-1: no limit)"
            raise InvalidSpec(f"{path}.kernelTCP", text)
        buffers = str(memory.kernel_tcp)
        yield Setting(f"{path}.kernelTCP", "memory", "memory.kmem.tcp.limit_in_bytes", buffers)
    if memory.swappiness is not None:
        if not 0 <= memory.swappiness <= 100:
            raise InvalidSpec(f"{path}.swappiness", f"{memory.swappiness} is not in 0..100")
        yield Setting(f"{path}.swappiness", "memory", "memory.swappiness", str(memory.swappiness))


def _v2_memory(memory: Memory) -> Iterator[Setting]:
    limit, reservation, swap = _memory_numbers(memory)
    path = f"{PREFIX}.memory"
    for name, wanted in (
        ("disableOOMKiller", memory.disable_oom_killer),
        ("kernelTCP", memory.kernel_tcp is not None),
        ("swappiness", memory.swappiness is not None),
    ):
        if wanted:
            raise InvalidSpec(f"{path}.{name}", "cgroup v2 can't do that: leave it out")
    if swap:  # first: a limit that swap may not relieve must never hold for a moment
        alone = UNLIMITED if swap == UNLIMITED else swap - limit
        yield Setting(f"{path}.swap", "memory", "memory.swap.max", _or_max(alone), optional=True)
    if limit:
        yield Setting(f"{path}.limit", "memory", "memory.max", _or_max(limit))
    if reservation:
        yield Setting(f"{path}.reservation", "memory", "memory.low", _or_max(reservation))


def _or_max(number: int) -> str:
    return "max" if number == UNLIMITED else str(number)


# --- cpu ------------------------------------------------------------------------------------


def cpu_weight(shares: int) -> int:
    """cgroup v2's weight (1…10000) for v1's shares (2…262144).

    A parabola between the logarithms that goes through the ends and gives the default for the
    default (1024 shares, weight 100), as the other runtimes compute it today.
    """
    if shares <= MIN_SHARES:
        return 1
    if shares >= MAX_SHARES:
        return 10_000
    log = math.log2(shares)
    weight: float = 10 ** ((log * log + 125 * log) / 612 - 7 / 34)
    return math.ceil(round(weight, 9))  # 100.00000000000001 is 100


def _cpu_numbers(cpu: Cpu) -> tuple[int, int, int]:
    """(shares, quota, period), checked, 0 for "not asked for"."""
    shares, quota, period = cpu.shares or 0, cpu.quota or 0, cpu.period or 0
    path = f"{PREFIX}.cpu"
    if not 0 <= shares <= MAX_SHARES:
        raise InvalidSpec(
            f"{path}.shares", f"{shares}; the kernel takes {MIN_SHARES} to {MAX_SHARES}"
        )
    if quota and quota != UNLIMITED and quota < MIN_QUOTA:
        raise InvalidSpec(
            f"{path}.quota", f"{quota} µs; the kernel takes {MIN_QUOTA} or more, or -1 for no limit"
        )
    if period and not MIN_PERIOD <= period <= MAX_PERIOD:
        raise InvalidSpec(
            f"{path}.period", f"{period} µs; the kernel takes {MIN_PERIOD} to {MAX_PERIOD}"
        )
    return shares and max(shares, MIN_SHARES), quota, period


def _v1_cpu(cpu: Cpu) -> Iterator[Setting]:
    shares, quota, period = _cpu_numbers(cpu)
    path = f"{PREFIX}.cpu"
    if shares:
        yield Setting(f"{path}.shares", "cpu", "cpu.shares", str(shares))
    if period:
        yield Setting(f"{path}.period", "cpu", "cpu.cfs_period_us", str(period))
    if quota:
        yield Setting(f"{path}.quota", "cpu", "cpu.cfs_quota_us", str(quota))
    # The period first: a runtime must not be above it.
    for name, number, file in (
        ("realtimePeriod", cpu.realtime_period, "cpu.rt_period_us"),
        ("realtimeRuntime", cpu.realtime_runtime, "cpu.rt_runtime_us"),
    ):
        if number is not None:
            if not UNLIMITED <= number < 1 << 31:
                raise InvalidSpec(f"{path}.{name}", f"{number} is no number of µs")
            yield Setting(f"{path}.{name}", "cpu", file, str(number))


def _v2_cpu(cpu: Cpu) -> Iterator[Setting]:
    shares, quota, period = _cpu_numbers(cpu)
    path = f"{PREFIX}.cpu"
    for name, number in (("Period", cpu.realtime_period), ("Runtime", cpu.realtime_runtime)):
        if number is not None:
            raise InvalidSpec(f"{path}.realtime{name}", "cgroup v2 can't do that: leave it out")
    if shares:
        yield Setting(f"{path}.shares", "cpu", "cpu.weight", str(cpu_weight(shares)))
    if quota or period:
        value = f"{_or_max(quota or UNLIMITED)} {period or DEFAULT_PERIOD}"
        yield Setting(f"{path}.quota", "cpu", "cpu.max", value)


def _cpuset(cpu: Cpu) -> Iterator[Setting]:
    for name, text in (("cpus", cpu.cpus), ("mems", cpu.mems)):
        if not text:
            continue
        if not _CPU_LIST.fullmatch(text):
            raise InvalidSpec(f"{PREFIX}.cpu.{name}", f"{text!r} is no list such as 0-3,7")
        yield Setting(f"{PREFIX}.cpu.{name}", "cpuset", f"cpuset.{name}", text)


# --- the rest -------------------------------------------------------------------------------


def _pids(pids: Pids) -> Iterator[Setting]:
    if not UNLIMITED <= pids.limit < 1 << 63:
        raise InvalidSpec(f"{PREFIX}.pids.limit", f"{pids.limit} is no count (-1: no limit)")
    # 0 asks for the smallest limit there is; with a literal 0 not even the first process starts.
    limit = _or_max(pids.limit or 1)
    yield Setting(f"{PREFIX}.pids.limit", "pids", "pids.max", limit)


_THROTTLES = (  # field of BlockIo, of the specification, v1's file, v2's key
    ("throttle_read_bps_device", "throttleReadBpsDevice", "read_bps_device", "rbps"),
    ("throttle_write_bps_device", "throttleWriteBpsDevice", "write_bps_device", "wbps"),
    ("throttle_read_iops_device", "throttleReadIOPSDevice", "read_iops_device", "riops"),
    ("throttle_write_iops_device", "throttleWriteIOPSDevice", "write_iops_device", "wiops"),
)


def _throttles(block_io: BlockIo) -> Iterator[tuple[str, str, str, str]]:
    """(the spec's field, v1's file, v2's key, "major:minor rate") of each."""
    for name, words, file, key in _THROTTLES:
        listed: tuple[Throttle, ...] = getattr(block_io, name)
        for index, item in enumerate(listed):
            path = f"{PREFIX}.blockIO.{words}[{index}]"
            if not 0 < item.rate < 1 << 63:
                raise InvalidSpec(f"{path}.rate", f"{item.rate} is not above 0, and below 2^63")
            yield path, file, key, f"{item.major}:{item.minor} {item.rate}"


def _weights(block_io: BlockIo, controller: str) -> Iterator[Setting]:
    """Of BFQ, the only scheduler that knows them on both versions; a note where a disk has none."""
    path = f"{PREFIX}.blockIO"
    prefix = "blkio" if controller == "blkio" else "io"
    if block_io.weight is not None:
        weight = _checked_weight(block_io.weight, f"{path}.weight")
        yield Setting(f"{path}.weight", controller, f"{prefix}.bfq.weight", weight, optional=True)
    own = "blkio.bfq.weight_device" if controller == "blkio" else "io.bfq.weight"
    for index, item in enumerate(block_io.weight_device):
        field = f"{path}.weightDevice[{index}].weight"
        value = f"{item.major}:{item.minor} {_checked_weight(item.weight, field)}"
        yield Setting(field, controller, own, value, optional=True)


def _checked_weight(weight: int, path: str) -> str:
    if not 10 <= weight <= 1000:
        raise InvalidSpec(path, f"{weight} is not in 10..1000")
    return str(weight)


def _v1_block_io(block_io: BlockIo) -> Iterator[Setting]:
    yield from _weights(block_io, "blkio")
    for path, file, _, value in _throttles(block_io):
        yield Setting(path, "blkio", f"blkio.throttle.{file}", value)


def _v2_block_io(block_io: BlockIo) -> Iterator[Setting]:
    yield from _weights(block_io, "io")
    for path, _, key, value in _throttles(block_io):
        device, rate = value.split(" ")
        yield Setting(path, "io", "io.max", f"{device} {key}={rate}")


def _hugetlb(page: HugepageLimit, index: int, suffix: str) -> Iterator[Setting]:
    path = f"{PREFIX}.hugepageLimits[{index}]"
    count = int(page.page_size[:-2]) if _PAGE_SIZE.fullmatch(page.page_size) else 0
    if not count or count & (count - 1):  # pages are powers of two, on every machine
        raise InvalidSpec(f"{path}.pageSize", f"{page.page_size!r} is no size such as 2MB or 1GB")
    if not 0 <= page.limit < 1 << 64:
        raise InvalidSpec(f"{path}.limit", f"{page.limit} is no number of bytes")
    for kind in ("", "rsvd."):  # reservations too: else a process is killed only when it touches
        file = f"hugetlb.{page.page_size}.{kind}{suffix}"
        yield Setting(f"{path}.limit", "hugetlb", file, str(page.limit), optional=True)


def _unified(resources: Resources) -> Iterator[Setting]:
    for file, value in resources.unified.items():
        path = f"{PREFIX}.unified.{file}"
        if not _UNIFIED_FILE.fullmatch(file):
            raise InvalidSpec(
                path, "is no file of a cgroup: write controller.file, memory.high say"
            )
        controller = file.partition(".")[0]
        if controller == "cgroup":
            raise InvalidSpec(path, "the files cgroup.* belong to the runtime: leave it out")
        for line in value.splitlines():  # io.max takes one device a write
            yield Setting(path, controller, file, line)
