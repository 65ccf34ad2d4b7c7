"""When containers' writable layers are counted anew: in the background, at a few percent of a core.

A round takes all whose turn it is, in one worker process; most layers are small, and what a round
costs is the worker's start, 60 ms. A round that took longer is followed by a longer pause, and a
container whose layer takes long has its turn less often. One that has ended has one more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING

from cri.store.container import ContainerState
from image.errors import ImageFault

if TYPE_CHECKING:
    from cri.rpc.services import Services

log = logging.getLogger(__name__)

FIRST_SECONDS = 1.0  # after the daemon's start, which has better things to do
ROUND_SECONDS = 10.0  # as often as kubelet looks
PAUSE = 25  # times what a round took: 4 % of a core at most
PATIENCE = 100  # times what a container's own walk took
FAILED_SECONDS = 120.0  # until those have their turn again whose round has failed


class Schedule:
    """Whose turn it is. Times in seconds, on one clock."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._done: set[str] = set()  # ended, and counted since

    def due(self, running: Collection[str], ended: Collection[str], now: float) -> list[str]:
        """The containers to count now. Those that are in neither collection are forgotten."""
        known = {*running, *ended}
        self._next = {one: at for one, at in self._next.items() if one in known}
        self._done &= set(ended)
        left = [one for one in ended if one not in self._done]
        return [one for one in (*running, *left) if self._next.get(one, now) <= now]

    def taken(self, took: dict[str, float], ended: Collection[str], now: float) -> float:
        """What each took, in seconds of CPU time; answers how long to pause."""
        for one, seconds in took.items():
            self._next[one] = now + max(ROUND_SECONDS, PATIENCE * seconds)
        self._done |= {one for one in ended if one in took}
        return max(ROUND_SECONDS, PAUSE * sum(took.values()))

    def failed(self, containers: Collection[str], now: float) -> None:
        """One of them may be the reason: the others shall not wait for it."""
        self._next |= dict.fromkeys(containers, now + FAILED_SECONDS)


@contextlib.asynccontextmanager
async def refreshing(services: Services) -> AsyncIterator[None]:
    """While inside, the numbers are kept fresh."""
    task = asyncio.get_running_loop().create_task(_run(services), name="count writable layers")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _run(services: Services) -> None:
    schedule = Schedule()
    pause = FIRST_SECONDS
    while True:
        await asyncio.sleep(pause)
        pause = await turn(services, schedule)


async def turn(services: Services, schedule: Schedule) -> float:
    """One round; answers for how long there is to be no other."""
    containers = services.store.containers.all()
    running = [one.id for one in containers if one.status.state is ContainerState.RUNNING]
    ended = [one.id for one in containers if one.status.state is ContainerState.EXITED]
    due = schedule.due(running, ended, time.monotonic())
    if not due:
        return ROUND_SECONDS
    writable = services.images.writable
    try:
        await writable.take(due)
    except (ImageFault, OSError) as error:
        log.warning("what %d containers have written could not be counted: %s", len(due), error)
        schedule.failed(due, time.monotonic())
        return ROUND_SECONDS
    took = {one: found.seconds if (found := writable.find(one)) else 0.0 for one in due}
    return schedule.taken(took, ended, time.monotonic())
