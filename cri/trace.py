"""What each RPC did, stage by stage, and how long each stage took.

    with trace.stage("network attach"):        # in a handler; outside of one it costs nothing
        ...
    trace.merge(started.stages)                 # what spawner, monitor and init measured
    trace.about(sandbox_id=sandbox.id)          # so that `podwright trace` finds it by pod

Times are CLOCK_MONOTONIC nanoseconds: the same clock in all our processes on a node.
"""

from __future__ import annotations

import collections
import contextlib
import time
from array import array
from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Stage = tuple[str, int, int]  # name, start (CLOCK_MONOTONIC ns), duration (ns)

MOST_NAMES = 256  # different sequences of stages
_KNOWN_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {}
_current: ContextVar[Timeline | None] = ContextVar("timeline", default=None)


@dataclass(slots=True)
class Timeline:
    """One RPC: what it was about, its stages, its outcome.

    Thousands are kept, so a finished one keeps its stages packed: names, which are the same for
    most RPCs of a kind, apart from numbers.
    """

    rpc: str
    started_at: int = field(default_factory=time.time_ns)  # ns since the epoch
    start: int = field(default_factory=time.monotonic_ns)  # the zero of the stages
    duration: int = 0  # ns; 0 while it runs
    sandbox_id: str = ""
    container_id: str = ""
    subject: str = ""  # what else it is about: a pod's name, an image reference
    code: str = ""  # gRPC status name; "" while it runs
    error: str = ""
    _open: list[Stage] | None = field(default_factory=list)
    _names: tuple[str, ...] = ()
    _times: array[int] = field(default_factory=lambda: array("q"))  # start, duration, start, …

    @property
    def stages(self) -> list[Stage]:
        """What was measured so far, by start."""
        if self._open is not None:
            return sorted(self._open, key=itemgetter(1))
        return list(zip(self._names, self._times[::2], self._times[1::2], strict=True))

    def add(self, stages: Iterable[Stage]) -> None:
        """Record stages; once it is finished, they come too late."""
        if self._open is not None:
            self._open.extend(stages)

    def finish(self, code: str, error: str = "") -> None:
        """Close the books."""
        self.duration = time.monotonic_ns() - self.start
        self.code = code
        self.error = error
        stages = self.stages
        names = tuple(name for name, _, _ in stages)
        self._names = _KNOWN_NAMES.setdefault(names, names)
        self._times = array("q", [number for stage in stages for number in stage[1:]])
        self._open = None
        if len(_KNOWN_NAMES) > MOST_NAMES:
            _KNOWN_NAMES.clear()

    def to_json(self) -> Mapping[str, object]:
        """Shape: rpc, subject, sandbox, container, started_at (ns since the epoch), duration (ns),
        code, error, stages: [{name, start (ns since the RPC's start), duration (ns)}] by start."""
        return {
            "rpc": self.rpc,
            "subject": self.subject,
            "sandbox": self.sandbox_id,
            "container": self.container_id,
            "started_at": self.started_at,
            "duration": self.duration or time.monotonic_ns() - self.start,
            "code": self.code,
            "error": self.error,
            "stages": [
                {"name": name, "start": start - self.start, "duration": duration}
                for name, start, duration in self.stages
            ],
        }


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Record the time spent inside, also when it raises."""
    timeline = _current.get()
    if timeline is None:
        yield
        return
    start = time.monotonic_ns()
    try:
        yield
    finally:
        timeline.add([(name, start, time.monotonic_ns() - start)])


class Measured(Protocol):
    """A stage as `runtime` and others say it: a value with these fields."""

    @property
    def name(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def duration(self) -> int: ...


def merge(stages: Iterable[Measured | Stage]) -> None:
    """Add stages that were measured elsewhere."""
    timeline = _current.get()
    if timeline is not None:
        timeline.add(
            stage if isinstance(stage, tuple) else (stage.name, stage.start, stage.duration)
            for stage in stages
        )


def about(*, sandbox_id: str = "", container_id: str = "", subject: str = "") -> None:
    """Say what the current RPC is about; empty arguments leave what was said before."""
    timeline = _current.get()
    if timeline is not None:
        timeline.sandbox_id = sandbox_id or timeline.sandbox_id
        timeline.container_id = container_id or timeline.container_id
        timeline.subject = subject or timeline.subject


class Recorder:
    """Keeps the latest timelines, those of pods' lives apart from those of ExecSync and the like,
    so that probes don't push a pod's start out of memory."""

    FREQUENT = frozenset({"ExecSync", "ReopenContainerLog", "RemoveImage", "PullImage"})

    def __init__(self, *, lives: int = 4096, frequent: int = 512) -> None:
        self._lives: collections.deque[Timeline] = collections.deque(maxlen=lives)
        self._frequent: collections.deque[Timeline] = collections.deque(maxlen=frequent)

    @contextlib.contextmanager
    def record(self, rpc: str) -> Iterator[Timeline]:
        """The timeline of an RPC that starts now; kept at once, so that one under way is seen.

        The caller says `finish()`.
        """
        timeline = Timeline(rpc)
        (self._frequent if rpc in self.FREQUENT else self._lives).append(timeline)
        token = _current.set(timeline)
        try:
            yield timeline
        finally:
            _current.reset(token)

    def recent(self, limit: int = 100) -> tuple[Timeline, ...]:
        """The latest timelines, oldest first."""
        return tuple(sorted((*self._lives, *self._frequent), key=_start)[-limit:])

    def of_sandbox(self, sandbox_id: str) -> tuple[Timeline, ...]:
        """All that was done to a sandbox and its containers, oldest first."""
        every = (*self._lives, *self._frequent)
        return tuple(sorted((t for t in every if t.sandbox_id == sandbox_id), key=_start))

    def of_container(self, container_id: str) -> tuple[Timeline, ...]:
        """All that was done to a container, oldest first."""
        every = (*self._lives, *self._frequent)
        return tuple(sorted((t for t in every if t.container_id == container_id), key=_start))


def _start(timeline: Timeline) -> int:
    return timeline.start
