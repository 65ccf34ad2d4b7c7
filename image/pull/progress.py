"""How far pulls are, for those who watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from image.digest import Digest


@dataclass(frozen=True, slots=True)
class LayerProgress:
    """A layer. digest: of its blob; size: compressed bytes; fetched: so many of them so far, all of
    a layer that was present; entries: files unpacked so far; unpacked: bytes of their contents;
    state: "waiting", "pulling", "settling", "done", or "present" for one that was there already.
    """

    digest: str
    size: int
    fetched: int
    entries: int
    unpacked: int
    state: str


@dataclass(frozen=True, slots=True)
class PullProgress:
    """A pull. stage: "resolving", "pulling", "committing", "done" or "failed"; started_at: ns since
    1970; layers: from the bottom up, once they are known.
    """

    reference: str
    stage: str
    started_at: int
    layers: tuple[LayerProgress, ...] = ()


@dataclass(slots=True)
class Meter:
    """A layer on its way, possibly for several pulls; each of them listens."""

    digest: Digest
    size: int
    fetched: int = 0
    entries: int = 0
    unpacked: int = 0
    state: str = "waiting"
    listeners: list[Callable[[], None]] = field(default_factory=list)

    def change(self, state: str) -> None:
        """Enter a state and tell those who listen."""
        self.state = state
        if state in ("done", "present"):
            self.fetched = self.size
        self.tell()

    def tell(self) -> None:
        """Something changed."""
        for listener in self.listeners:
            listener()

    def value(self) -> LayerProgress:
        """Now."""
        return LayerProgress(
            str(self.digest), self.size, self.fetched, self.entries, self.unpacked, self.state
        )


@dataclass(slots=True)
class Tracker:
    """A pull on its way. callbacks: told of every change."""

    reference: str
    started_at: int = field(default_factory=time.time_ns)
    stage: str = "resolving"
    meters: Sequence[Meter] = ()
    callbacks: list[Callable[[PullProgress], None]] = field(default_factory=list)

    def change(self, stage: str) -> None:
        """Enter a stage and tell."""
        self.stage = stage
        self.tell()

    def watch(self, meters: Sequence[Meter]) -> None:
        """The layers are known."""
        self.meters = meters
        self.change("pulling")

    def tell(self) -> None:
        """Something changed."""
        if self.callbacks:
            value = self.value()
            for callback in self.callbacks:
                callback(value)

    def value(self) -> PullProgress:
        """Now."""
        layers = tuple(meter.value() for meter in self.meters)
        return PullProgress(self.reference, self.stage, self.started_at, layers)
