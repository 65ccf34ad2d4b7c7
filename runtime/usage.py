"""What cgroups use, asked for from the event loop and read in one thread of our own.

    loop                       thread "podwright-usage"
    usages, details, … ──────▶ opens, reads and closes the descriptors, one request after the other
    ◀── values by path

That thread alone has the descriptors, so that none is read after it was closed. A request that is
under way is joined by others for the same cgroups: kubelet and a person ask at the same time.
A cgroup that isn't there, or no longer, is left out of the answer. It must not fail the others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import os
import resource
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from runtime.cgroup import files, processes, tree
from runtime.cgroup.descriptors import CgroupGone, Descriptors
from runtime.cgroup.processes import Processes
from runtime.cgroup.usage import Detail, DeviceIo, Format, Memory, Pressure, Stall, Usage
from runtime.cgroup.usage_v1 import FormatV1
from runtime.cgroup.usage_v2 import FormatV2
from runtime.cgroup.v1 import HierarchyV1
from runtime.cgroup.v2 import HierarchyV2
from runtime.errors import RuntimeFault

__all__ = [
    "Detail",
    "DeviceIo",
    "Memory",
    "Pressure",
    "Processes",
    "Stall",
    "Usage",
    "Usages",
    "block_device",
]

log = logging.getLogger(__name__)
T = TypeVar("T")

RATE_NS: Final = 1_000_000_000  # two samples closer than that say little
UNUSED_NS: Final = 300 * 1_000_000_000  # a cgroup that nobody asked for so long is let go of


@dataclass(slots=True)
class _Sampled:
    """The sample that the next rate counts from. at: on the monotonic clock."""

    at: int
    cpu: int
    rate: int | None = None
    asked: int = 0

    def rate_of(self, now: int, cpu: int) -> int | None:
        """CPU time per second, in ns, between two samples that are a second apart or more."""
        if cpu < self.cpu:  # another cgroup of the same path
            self.at, self.cpu, self.rate = now, cpu, None
        elif now - self.at >= RATE_NS:
            self.rate = (cpu - self.cpu) * RATE_NS // (now - self.at)
            self.at, self.cpu = now, cpu
        return self.rate


class Reader:
    """The thread's part; blocks for some µs a file. Paths are cgroups', as a spec has them."""

    def __init__(
        self,
        form: Format,
        descriptors: Descriptors,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._format = form
        self._descriptors = descriptors
        self._clock = clock
        self._sampled: dict[str, _Sampled] = {}
        self._paths: dict[str, tuple[list[str], list[str]]] = {}

    @classmethod
    def of_this_machine(cls) -> Reader:
        """With a third of the descriptors that this process may have."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(_format(tree.detect()), Descriptors(soft // 3))

    def usages(self, paths: Sequence[str]) -> Mapping[str, Usage]:
        """Of each cgroup that is there."""
        found = _each(paths, self._usage)
        self._let_go()
        return found

    def _usage(self, path: str) -> Usage:
        try:
            contents = self._descriptors.read(path, self._files(path)[0])
        except CgroupGone:
            self.forget(path)
            raise
        now = self._clock()
        usage = self._format.usage(contents, time.time_ns())
        sampled = self._sampled.get(path)
        if sampled is None:
            sampled = self._sampled[path] = _Sampled(now, usage.cpu.usage)
        sampled.asked = now
        return dataclasses.replace(usage, rate=sampled.rate_of(now, usage.cpu.usage))

    def details(self, paths: Sequence[str]) -> Mapping[str, Detail]:
        """Of each cgroup that is there."""
        return _each(paths, self._detail)

    def _detail(self, path: str) -> Detail:
        contents = self._descriptors.read((path, "detail"), self._files(path)[1])
        return self._format.detail(contents)

    def counts(self, paths: Sequence[str]) -> Mapping[str, int]:
        """How many processes each has, cgroups beneath included."""
        return _each(paths, lambda path: len(self._pids(path)))

    def processes(self, paths: Sequence[str]) -> Mapping[str, Processes]:
        """What the processes of each hold."""
        return _each(paths, lambda path: processes.look(self._pids(path)))

    def _pids(self, path: str) -> list[int]:
        directory = self._format.directory(files.checked_path(path))
        return [pid for pid in files.pids(directory) if pid]  # 0: not of our pid namespace

    def forget(self, path: str) -> None:
        """Close what is open of a cgroup."""
        self._descriptors.forget(path)
        self._descriptors.forget((path, "detail"))
        self._sampled.pop(path, None)
        self._paths.pop(path, None)

    def close(self) -> None:
        self._descriptors.close()

    def _files(self, path: str) -> tuple[list[str], list[str]]:
        known = self._paths.get(path)
        if known is None:
            checked = files.checked_path(path)
            form = self._format
            known = form.usage_files(checked), form.detail_files(checked)
            self._paths[path] = known
        return known

    def _let_go(self) -> None:
        """Of pods' cgroups nobody says that they have gone."""
        before = self._clock() - UNUSED_NS
        for path in [path for path, one in self._sampled.items() if one.asked < before]:
            self.forget(path)


class Usages:
    """The loop's part. Nothing is started before the first question."""

    def __init__(self, open_reader: Callable[[], Reader] = Reader.of_this_machine) -> None:
        self._open_reader = open_reader
        self._reader: Reader | None = None
        self._thread = ThreadPoolExecutor(1, "podwright-usage")
        self._under_way: dict[tuple[str, tuple[str, ...]], asyncio.Future[object]] = {}
        self._closed = False

    async def usages(self, paths: Sequence[str]) -> Mapping[str, Usage]:
        """CPU, memory, swap and pressure by cgroup; what isn't there is left out."""
        return await self._joined("usages", paths, Reader.usages)

    async def details(self, paths: Sequence[str]) -> Mapping[str, Detail]:
        """Throttling, limits, threads, disks by cgroup; what isn't there is left out."""
        return await self._joined("details", paths, Reader.details)

    async def counts(self, paths: Sequence[str]) -> Mapping[str, int]:
        """How many processes there are by cgroup."""
        return await self._joined("counts", paths, Reader.counts)

    async def processes(self, paths: Sequence[str]) -> Mapping[str, Processes]:
        """Processes, their descriptors and limits by cgroup."""
        return await self._joined("processes", paths, Reader.processes)

    def forget(self, path: str) -> None:
        """A cgroup has gone, or is about to: its descriptors are closed when there is time."""
        if self._reader is not None and not self._closed:
            self._thread.submit(self._reader.forget, path)

    async def close(self) -> None:
        """Waits for what is under way, and closes all."""
        if self._closed:
            return
        self._closed = True
        await asyncio.wrap_future(self._thread.submit(self._let_go))
        self._thread.shutdown()

    def _let_go(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _joined(
        self, kind: str, paths: Sequence[str], read: Callable[[Reader, Sequence[str]], T]
    ) -> Awaitable[T]:
        """Read in the thread, or wait for who reads the same at this moment."""
        if not paths:
            return asyncio.sleep(0, cast("T", {}))
        key = (kind, tuple(paths))
        future = self._under_way.get(key)
        if future is None:
            future = asyncio.wrap_future(self._thread.submit(self._read, read, key[1]))
            self._under_way[key] = future
            future.add_done_callback(lambda done: self._over(key, done))
        return cast("Awaitable[T]", asyncio.shield(future))

    def _over(self, key: tuple[str, tuple[str, ...]], done: asyncio.Future[object]) -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # seen: nobody may be waiting any more

    def _read(self, read: Callable[[Reader, Sequence[str]], T], paths: Sequence[str]) -> object:
        if self._reader is None:
            self._reader = self._open_reader()
        return read(self._reader, paths)


@functools.lru_cache(256)
def block_device(major: int, minor: int) -> str:
    """The device file of a disk; "" for one that has none (tmpfs), or has gone."""
    try:
        return "/dev/" + os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))
    except OSError:
        return ""


def _format(hierarchy: tree.Hierarchy) -> Format:
    if isinstance(hierarchy, HierarchyV1):
        return FormatV1(hierarchy.mounts)
    assert isinstance(hierarchy, HierarchyV2)
    return FormatV2(hierarchy.mount)


def _each(paths: Sequence[str], read: Callable[[str], T]) -> dict[str, T]:
    """One that can't be read keeps none of the others from it."""
    found = {}
    for path in paths:
        try:
            found[path] = read(path)
        except CgroupGone:
            continue
        except (OSError, ValueError, LookupError, RecursionError, RuntimeFault) as error:
            log.debug("cgroup %s can't be read: %r", path, error)
    return found
