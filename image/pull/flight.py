"""One task a key at a time: a second caller joins the one that is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """Tasks by key. A task is cancelled when everyone who waited for it has gone."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}
        self._waiting: dict[asyncio.Task[T], int] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._tasks

    async def join(self, key: K, begin: Callable[[], Coroutine[None, None, T]]) -> T:
        """The result of the task of this key, which `begin` gives if there is none yet."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(begin())
            self._tasks[key] = task
            task.add_done_callback(lambda task: self._forget(key, task))
        self._waiting[task] = self._waiting.get(task, 0) + 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
                await self._land(key, task)

    def _forget(self, key: K, task: asyncio.Task[T]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]

    async def _land(self, key: K, task: asyncio.Task[T]) -> None:
        """Nobody waits any more: end it, and let it clean up before we return."""
        if task.done():
            return
        self._forget(key, task)  # the next caller starts another
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # seen
