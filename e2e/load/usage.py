"""What the daemon, the spawner and the monitors of a node hold and burn at a moment."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from e2e.bench.accounting import pss_bytes
from e2e.kubelet import until

if TYPE_CHECKING:
    from e2e.node import Node

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process, or of several together. Bytes and counts."""

    rss: int
    pss: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pids: Iterable[int]) -> Usage:
        """A process that is gone by now counts nothing."""
        found = [one for pid in pids for one in _usage(pid)]
        return (
            cls(*(sum(column) for column in zip(*found, strict=True))) if found else cls(0, 0, 0, 0)
        )


def _usage(pid: int) -> Iterator[tuple[int, int, int, int]]:
    with contextlib.suppress(OSError):
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        descriptors, threads = (len(os.listdir(f"/proc/{pid}/{what}")) for what in ("fd", "task"))
        yield resident, pss_bytes(pid), descriptors, threads


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that these processes have used up to now."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    """By stat(5) in ticks, rounded down, or by its threads in nanoseconds: those which have ended
    are forgotten there, but a monitor burns less than a tick in a minute."""
    after_name = _stat(pid)
    ticks = (int(after_name[11]) + int(after_name[12])) / _TICK if after_name else 0.0
    threads = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            threads += int(thread.read_text().split()[0])
    return max(ticks, threads / 1e9)


def _stat(pid: int) -> list[str]:
    """proc(5): what follows the name; [11] and [12] are utime and stime."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


@dataclass(frozen=True, slots=True)
class Processes:
    """podwright's own processes on a node. `spawner`: it, its zygote and the spare monitor."""

    daemon: tuple[int, ...]
    spawner: tuple[int, ...]
    monitors: tuple[int, ...]

    @classmethod
    def of(cls, node: Node) -> Processes:
        assert node.daemon is not None
        written = (node.state / "monitors").glob("*/pid")
        monitors = tuple(int(path.read_text().split()[0]) for path in written)
        forks = (pid for pid, words in node.processes().items() if "runtime.spawner" in words)
        core = tuple(pid for pid in forks if pid not in monitors)
        return cls((node.daemon.process.pid,), core, monitors)

    def cpu_seconds(self) -> dict[str, float]:
        return {name: cpu_seconds(pids) for name, pids in self._groups()}

    def usage(self) -> dict[str, Usage]:
        return {name: Usage.of(pids) for name, pids in self._groups()}

    def _groups(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from (("daemon", self.daemon), ("spawner", self.spawner), ("monitors", self.monitors))


def tasks(node: Node) -> int:
    """How many asyncio tasks the daemon has: it says them on SIGUSR1."""
    assert node.daemon is not None
    log = node.daemon.log
    begin = log.stat().st_size

    def said() -> int:
        with log.open("rb") as file:
            file.seek(begin)
            return file.read().count(b" task ")

    node.daemon.process.send_signal(signal.SIGUSR1)
    until(lambda: said() > 0, "the daemon says its tasks")
    # the loop answers once it has said all of them
    node.client.call("Version", api.VersionRequest(), api.VersionResponse)
    return said()


def files(node: Node) -> int:
    """Files and directories that the daemon keeps."""
    return sum(
        len(directories) + len(names)
        for top in (node.root, node.state)
        for _, directories, names in os.walk(top)
    )


def snapshot(node: Node) -> dict[str, dict[str, int]]:
    """Everything at once: {daemon: {rss, pss, descriptors, threads, tasks, files}, spawner: …}."""
    used = {name: asdict(usage) for name, usage in Processes.of(node).usage().items()}
    used["daemon"] |= {"tasks": tasks(node), "files": files(node)}
    return used
