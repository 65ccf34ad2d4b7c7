"""Containers that stand still, all of them, as long as somebody wants it and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runtime.errors import CheckpointFailed, RuntimeFault
from runtime.monitor.messages import Done

if TYPE_CHECKING:
    from runtime.monitor.container import Container
    from runtime.monitor.loop import Loop, Timer

Answer = Callable[[object], None]
Begun = Callable[[object, list[int]], None]
_LOOK = 0.002  # seconds between two looks: the kernel sends no word of it on v1


class Pausing:
    """Freezes, waits until all are frozen, and thaws in any case. Answered once."""

    def __init__(self, loop: Loop, containers: Sequence[Container], answer: Answer) -> None:
        self._loop = loop
        self._cgroups = [container.cgroup for container in containers]
        self._answer: Answer | None = answer
        self._timer: Timer | None = None

    def start(self, timeout: float, begun: Begun) -> None:
        """`begun` is told when all stand still; a failure lets them run on and is the answer."""
        try:
            for cgroup in self._cgroups:
                cgroup.freeze()
        except OSError as error:
            self._end(CheckpointFailed(f"{cgroup.path} can't be frozen: {error.strerror}"))
            return
        self._wait(time.monotonic() + timeout, begun)

    def kill(self) -> None:
        """Nobody wants them to stand still any more."""
        self._end(Done())

    def _wait(self, deadline: float, begun: Begun) -> None:
        self._timer = None
        try:
            waiting = [cgroup for cgroup in self._cgroups if not cgroup.frozen()]
        except (OSError, RuntimeFault) as error:
            self._end(CheckpointFailed(f"a container ended while it was to be frozen: {error}"))
            return
        if not waiting:
            begun(Done(), [])
        elif time.monotonic() < deadline:
            self._timer = self._loop.after(_LOOK, lambda: self._wait(deadline, begun))
        else:
            text = f"{waiting[0].path} can't be frozen in time: a process hangs in the kernel"
            self._end(CheckpointFailed(text))

    def _end(self, result: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for cgroup in self._cgroups:
            cgroup.thaw()
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(result)
