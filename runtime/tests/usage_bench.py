"""Many cgroups at once: `python -m runtime.tests.usage_bench [cgroups]`, as root.

Makes that many cgroups, each with a process that sleeps, and reads them again and again. Medians in
ms, and how late the event loop was meanwhile, at worst in a hundred of its turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator

from runtime.tests.cgroup_driver import HIERARCHY, fresh_path, start
from runtime.usage import Usages

ROUNDS = 30
TURN = 0.001
"""Seconds that the loop means to sleep between two looks at the clock."""


@contextlib.contextmanager
def cgroups(count: int) -> Iterator[list[str]]:
    """Their paths; they are beneath one, and gone at the end."""
    pod = HIERARCHY.cgroup(fresh_path())
    pids = []
    try:
        groups = [HIERARCHY.cgroup(f"{pod.path}/{number}") for number in range(count)]
        for group in groups:
            group.ensure()
            pid, pipe = start(group, signal.pause)
            os.close(pipe)
            pids.append(pid)
        yield [group.path for group in groups]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        pod.remove(timeout=20)


async def lateness(late: list[float]) -> None:
    """Notes by how much a sleep was longer than it should be, until it is cancelled."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(TURN)
        late.append((time.perf_counter() - begin - TURN) * 1e3)


async def measure(paths: list[str]) -> None:
    usages = Usages()
    for name in ("usages", "details", "counts", "processes"):
        read = getattr(usages, name)
        begin = time.perf_counter()
        assert len(await read(paths)) == len(paths)
        first = (time.perf_counter() - begin) * 1e3
        late: list[float] = []
        watch = asyncio.create_task(lateness(late))
        times = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            assert len(await read(paths)) == len(paths)
            times.append((time.perf_counter() - begin) * 1e3)
        watch.cancel()
        then, worst = statistics.median(times), sorted(late)[int(len(late) * 0.99)]
        print(f"{name:10} first {first:6.1f}   then {then:6.1f}   late {worst:5.2f}")
    await usages.close()


def main() -> None:
    with cgroups(int(sys.argv[1]) if len(sys.argv) > 1 else 500) as paths:
        asyncio.run(measure(paths))


if __name__ == "__main__":
    main()
