"""The monitor's event loop: descriptors and deadlines, one thread, nothing else."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.linux.fds import log

Callback = Callable[[], None]
_MOST_EVENTS = 32  # at a time; memory for a thousand is allocated, and written to, by default
_PAUSE = 0.01  # seconds after a fault: what is always ready, and always fails, must not spin


@dataclass(order=True, slots=True)
class Timer:
    """A deadline; `cancel()` makes it never fire."""

    when: float
    callback: Callback | None = field(compare=False)

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Calls back when a descriptor is readable (or its other end is gone), or when time is up."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[Timer] = []
        self._running = True

    def watch(self, fd: int, callback: Callback) -> None:
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Call it before the descriptor is closed. One that is not watched: nothing."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def watch_changes(self, fd: int, *, only: bool) -> None:
        """Of one that is watched. only: call back for what is new, not for what still is: the
        hang-up of a terminal that somebody may open again."""
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLET if only else 0))

    def watch_room(self, fd: int, *, wanted: bool) -> None:
        """Of one that is watched: call back as well when it can be written to."""
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def after(self, seconds: float, callback: Callback) -> Timer:
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def reopen(self) -> None:
        """In a fork, which would share its parent's: another one that watches the same."""
        self._epoll.close()
        self._epoll = select.epoll()
        for fd in self._callbacks:
            self._epoll.register(fd, select.EPOLLIN)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Until stop()."""
        while self._running:
            self.step()

    def step(self) -> None:
        """Waits for the next event, or deadline, and calls who wants to know."""
        for fd, _ in self._epoll.poll(self._patience(), _MOST_EVENTS):
            callback = self._callbacks.get(fd)  # an earlier callback may have unwatched it
            if callback is not None:
                _call(callback)
        self._fire_timers()

    def close(self) -> None:
        self._epoll.close()

    def _patience(self) -> float:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return max(self._timers[0].when - time.monotonic(), 0) if self._timers else -1

    def _fire_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                _call(callback)


def _call(callback: Callback) -> None:
    """A fault of ours costs one event, not the monitor, and with it all of the pod."""
    try:
        callback()
    except Exception as error:  # noqa: BLE001 - see above
        log(f"an event could not be dealt with: {error!r}")
        time.sleep(_PAUSE)
