"""What happened to sandboxes and containers, for those who watch (GetContainerEvents).

    a commit of the store ──▶ Events ──▶ a queue for each watcher, read at the watcher's own pace
                                └──────▶ nobody watches: the latest are kept for the next who comes

An event is raised in the same turn of the loop as the commit which it tells of, and refers to the
immutable records of that moment: it costs a few microseconds, and its message is made when it is
delivered. Its time only grows, even if the wall clock is set back or the daemon starts anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri.errors import LimitReached
from cri.store.container import ContainerState
from cri.store.sandbox import SandboxState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from cri.store.container import Container
    from cri.store.sandbox import Sandbox
    from cri.store.store import Store

MOST_KEPT = 1000  # events, while nobody watches
KEPT_SECONDS = 300
MOST_WAITING = 2000  # events for one watcher: more than are kept, for those come all at once
MOST_WATCHERS = 64


class What(enum.Enum):
    """What happened."""

    CREATED = enum.auto()
    STARTED = enum.auto()
    STOPPED = enum.auto()
    DELETED = enum.auto()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, and how its pod was right after it.

    subject: id of the container or the sandbox; created_at: ns since the epoch, never twice the
    same; sandbox: of one that is deleted, its last record.
    """

    what: What
    subject: str
    created_at: int
    sandbox: Sandbox
    containers: tuple[Container, ...]


class Events:
    """Raises events and hands them on. Used from the loop's thread; nothing here waits.

    clock: ns since the epoch; it may jump.
    """

    def __init__(self, store: Store, clock: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._clock = clock
        self._latest = _latest_time(store)
        self._kept: deque[Event] = deque(maxlen=MOST_KEPT)
        self._watchers: set[Watcher] = set()
        self._closed = False
        store.sandboxes.follow(self._sandbox_changed)
        store.containers.follow(self._container_changed)

    def now(self) -> int:
        """A time (ns since the epoch) after all that were told before."""
        self._latest = max(self._clock(), self._latest + 1)
        return self._latest

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watcher]:
        """A watcher of all that happens from now on.

        The only one also gets what happened while there was none, and leaves what it has not read
        to the next. Raises LimitReached.
        """
        if len(self._watchers) >= MOST_WATCHERS:
            raise LimitReached(
                f"{MOST_WATCHERS} clients watch container events already: end one of them"
            )
        watcher = Watcher([] if self._watchers else self._take_kept())
        self._watchers.add(watcher)
        if self._closed:
            watcher.close()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                self._kept.extend(watcher.unread())

    def close(self) -> None:
        """Every watcher reads what waits for it, and then comes to its end: the daemon stops."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()

    def _sandbox_changed(self, old: Sandbox | None, new: Sandbox | None) -> None:
        if new is None:
            if old is not None and old.status.state is not SandboxState.INITIALIZING:
                self._raise(What.DELETED, old.id, old)
            return
        for what in _of_sandbox(old.status.state if old else None, new.status.state):
            self._raise(what, new.id, new)

    def _container_changed(self, old: Container | None, new: Container | None) -> None:
        one = new or old
        assert one is not None
        what = _of_container(old.status.state if old else None, new.status.state if new else None)
        sandbox = self._store.sandboxes.exact(one.metadata.sandbox_id)
        if what is not None and sandbox is not None:  # without its pod nobody could place it
            self._raise(what, one.id, sandbox)

    def _raise(self, what: What, subject: str, sandbox: Sandbox) -> None:
        containers = self._store.containers.of_sandbox(sandbox.id)
        event = Event(what, subject, self.now(), sandbox, containers)
        for watcher in self._watchers:
            watcher.offer(event)
        if not self._watchers:
            self._kept.append(event)
            self._forget_old()

    def _take_kept(self) -> list[Event]:
        self._forget_old()
        events = list(self._kept)
        self._kept.clear()
        return events

    def _forget_old(self) -> None:
        oldest = self.now() - KEPT_SECONDS * 10**9
        while self._kept and self._kept[0].created_at < oldest:
            self._kept.popleft()


class Watcher:
    """One reader's queue. A reader who lets it run full has missed something, and is told so."""

    def __init__(self, waiting: Iterable[Event]) -> None:
        self._waiting = deque(waiting)
        self._news = asyncio.Event()
        self._missed = False
        self._closed = False

    def offer(self, event: Event) -> None:
        """Put an event at the end of the queue; what doesn't fit ends the watch."""
        if len(self._waiting) >= MOST_WAITING:
            self._missed = True
            self._waiting.clear()
        if not self._missed:
            self._waiting.append(event)
        self._news.set()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._news.set()

    def unread(self) -> Iterator[Event]:
        """What was not read to its end."""
        return iter(self._waiting)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events in their order, until `close`. One counts as read when the next is asked for.

        Raises LimitReached if the reader was too slow.
        """
        while True:
            while self._waiting:
                event = self._waiting[0]
                yield event
                if self._waiting and self._waiting[0] is event:  # else it has overrun meanwhile
                    self._waiting.popleft()
            if self._missed:
                raise LimitReached(
                    f"more than {MOST_WAITING} container events waited for this client: it was too "
                    "slow and has missed some; list sandboxes and containers, and watch again"
                )
            if self._closed:
                return
            self._news.clear()
            await self._news.wait()


def _of_sandbox(old: SandboxState | None, new: SandboxState) -> tuple[What, ...]:
    """One that is being made is not announced: it exists once it is listed."""
    if new is old:
        return ()
    listed = old not in (None, SandboxState.INITIALIZING)
    match new:
        case SandboxState.READY:
            return (What.CREATED, What.STARTED)
        case SandboxState.NOTREADY:
            return (What.STOPPED,) if listed else (What.CREATED, What.STOPPED)
        case SandboxState.INITIALIZING:
            return ()


def _of_container(old: ContainerState | None, new: ContainerState | None) -> What | None:
    if new is old:
        return None
    if old is None:
        return What.CREATED
    if new is None:
        return What.DELETED
    return {ContainerState.RUNNING: What.STARTED, ContainerState.EXITED: What.STOPPED}.get(new)


def _latest_time(store: Store) -> int:
    """The latest time that a record knows: what an earlier daemon told can't be much later."""
    times = [sandbox.metadata.created_at for sandbox in store.sandboxes]
    for container in store.containers:
        status = container.status
        times += (container.metadata.created_at, status.started_at, status.finished_at)
    return max(times, default=0)
