"""One lock for each id, and one flight for each name.

`Locks`: operations that change the same sandbox or container take turns. Reading never locks.
`Flights`: a second request for what is already under way joins the first and gets the same answer;
so a client that timed out and asks again never meets "the name is reserved".
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

T = TypeVar("T")


class Locks:
    """An asyncio lock per id, which exists only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Hold the lock of an id; first come, first served. Not reentrant."""
        lock, users = self._held.get(name, (None, 0))
        lock = lock or asyncio.Lock()
        self._held[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._held[name]
            if users == 1:
                del self._held[name]
            else:
                self._held[name] = (lock, users - 1)

    def held(self) -> tuple[str, ...]:
        """The ids that somebody holds, or waits for."""
        return tuple(self._held)


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    started: float  # time.monotonic()
    passengers: int = 0
    abandoned: bool = False  # its last passenger left: it is being undone


@dataclass(frozen=True, slots=True)
class UnderWay:
    """An operation under way: its key, its age in seconds, how many requests wait for it."""

    key: str
    seconds: float
    waiting: int


@dataclass(slots=True)
class Flights(Generic[T]):
    """Operations under way, by key.

    The operation runs in a task of its own. It is cancelled when its last passenger has left, and a
    request that comes while it is still being undone waits for that, then starts anew.
    """

    _flights: dict[str, _Flight[T]] = field(default_factory=dict)

    async def join(self, key: str, operation: Callable[[], Coroutine[None, None, T]]) -> T:
        """The result of the operation under way for `key`; started now if there is none.

        Raises what the operation raises, in every request that joined it.
        """
        while (flight := self._flights.get(key)) is not None and flight.abandoned:
            await asyncio.wait([flight.task])
        if flight is None:
            flight = self._start(key, operation)
        flight.passengers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.passengers -= 1
            if flight.passengers == 0 and not flight.task.done():
                flight.abandoned = True
                flight.task.cancel()

    def tasks(self) -> set[asyncio.Task[T]]:
        """What runs, for those who must wait for all of it."""
        return {flight.task for flight in self._flights.values()}

    def under_way(self) -> tuple[UnderWay, ...]:
        """What is in the air now: for diagnosis."""
        now = time.monotonic()
        return tuple(
            UnderWay(key, now - flight.started, flight.passengers)
            for key, flight in self._flights.items()
        )

    def _start(self, key: str, operation: Callable[[], Coroutine[None, None, T]]) -> _Flight[T]:
        task = asyncio.get_running_loop().create_task(operation(), name=key)
        self._flights[key] = flight = _Flight(task, time.monotonic())
        task.add_done_callback(lambda _: self._landed(key, flight))
        return flight

    def _landed(self, key: str, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.task.cancelled():
            flight.task.exception()  # seen: an abandoned flight has nobody else to look
