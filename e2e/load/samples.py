"""How long calls took, and how many failed."""

from __future__ import annotations

import collections
import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import grpc

from cri.cli.client import CallFailed


def quantile(sorted_values: Sequence[float], share: float) -> float:
    """The value beneath which `share` of all lie (the nearest rank); NaN of nothing."""
    if not sorted_values:
        return math.nan
    return sorted_values[min(len(sorted_values) - 1, math.ceil(share * len(sorted_values)) - 1)]


@dataclass(slots=True)
class Samples:
    """Calls of one kind, from any thread. `seconds`: of those which succeeded."""

    seconds: list[float] = field(default_factory=list)
    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    implemented: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """One call: its time if it succeeds; a CallFailed is counted and goes no further."""
        begun = time.perf_counter()
        try:
            yield
        except CallFailed as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                self.implemented = False
            else:
                self.fail(error.message)
        else:
            with self._lock:
                self.seconds.append(time.perf_counter() - begun)

    def fail(self, why: str) -> None:
        """One call more that failed."""
        with self._lock:
            self.failures[why] += 1

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def later_than(self, seconds: float) -> int:
        """How many took longer, or failed."""
        return sum(took > seconds for took in self.seconds) + self.failed

    def document(self) -> dict[str, object]:
        """Milliseconds; what there is nothing of is left out."""
        if not self.implemented:
            return {"implemented": False}
        told: dict[str, object] = {"calls": len(self.seconds), "failures": dict(self.failures)}
        if self.seconds:
            ordered = sorted(second * 1e3 for second in self.seconds)
            told |= {"p50": quantile(ordered, 0.5), "p99": quantile(ordered, 0.99)}
            told |= {"max": ordered[-1]}
        return told
