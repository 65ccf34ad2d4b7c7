"""Blocking calls on paths that users gave: in threads that may be left behind.

A path on a dead network file system can hang for ever. asyncio's own pool would run out of threads,
and would keep the daemon from ending. These are daemon threads: one that hangs is given up, and its
request is answered at the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, ParamSpec, TypeVar

from cri.errors import PathHangs

P = ParamSpec("P")
T = TypeVar("T")

SECONDS = 20.0  # kubelet waits for two minutes
MOST_HANGING = 256  # threads; what more hangs is refused at once
SPARE = 4  # idle threads kept


class Workers:
    """Threads for calls that may hang. Used from the loop's thread."""

    def __init__(self) -> None:
        self._idle: deque[SimpleQueue[Callable[[], None]]] = deque()
        self._hanging: set[object] = set()

    async def call(
        self, seconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `function` answers or raises. Raises PathHangs after `seconds`."""
        if len(self._hanging) >= MOST_HANGING:
            raise PathHangs(
                f"{MOST_HANGING} earlier requests still hang on file systems that don't answer"
            )
        job = _Job(lambda: function(*args, **kwargs), self._hanging)
        self._start(job.run)
        done, _ = await asyncio.wait([job.answer], timeout=seconds)
        if not done:
            self._hanging.add(job)
            raise PathHangs(f"no answer from the file system within {seconds:g} s")
        return job.answer.result()

    def _start(self, run: Callable[[], None]) -> None:
        try:
            queue = self._idle.pop()
        except IndexError:
            queue = SimpleQueue()
            threading.Thread(target=self._work, args=(queue,), name="path", daemon=True).start()
        queue.put(run)

    def _work(self, queue: SimpleQueue[Callable[[], None]]) -> None:
        while True:
            queue.get()()
            if len(self._idle) >= SPARE:
                return
            self._idle.append(queue)


class _Job(Generic[T]):
    """A call, and the future of its answer, which is settled in the loop."""

    def __init__(self, call: Callable[[], T], hanging: set[object]) -> None:
        self._call = call
        self._hanging = hanging
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[T] = self._loop.create_future()

    def run(self) -> None:
        """In the thread."""
        try:
            value = self._call()
        except BaseException as error:  # noqa: BLE001 - raised where it was asked for
            self._tell(functools.partial(self._failed, error))
        else:
            self._tell(functools.partial(self._succeeded, value))

    def _tell(self, settle: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended while we hung
            self._loop.call_soon_threadsafe(settle)

    def _succeeded(self, value: T) -> None:
        self._hanging.discard(self)
        if not self.answer.done():
            self.answer.set_result(value)

    def _failed(self, error: BaseException) -> None:
        self._hanging.discard(self)
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # seen: nobody may be waiting any more
