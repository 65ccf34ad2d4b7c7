"""Undo: named compensations for an operation of many steps.

    async with Undo(f"run sandbox {sandbox_id}") as undo:
        undo.push("release network", network.detach, sandbox_id)   # before: it may fail halfway
        await network.attach(...)
        undo.commit()

Left without `commit()`, for whatever reason, every pushed step runs, newest first; a step that
fails or hangs does not keep the others from being tried. Nobody can cancel this: a client that
gives up cancels the request, and a second cancel may follow while we unwind. Steps must be
idempotent: what is left over is tried again by Stop, by Remove, and at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)
P = ParamSpec("P")

STEP_SECONDS = 30.0  # of its own: the request's deadline has often passed when we get here


@dataclass(frozen=True, slots=True)
class Leftover:
    """A step that could not be undone, and why."""

    step: str
    error: BaseException

    def __str__(self) -> str:
        return f"{self.step}: {str(self.error) or type(self.error).__name__}"


class Undo:
    """Runs what was pushed, newest first, unless committed.

    what: the operation, for the log. on_leftovers: called, inside the shield, with the steps that
    failed, so that the caller can keep a record of what Stop and Remove must try again.
    step_seconds: how long a single step may take.
    """

    def __init__(
        self,
        what: str,
        *,
        on_leftovers: Callable[[tuple[Leftover, ...]], None] | None = None,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        self.leftovers: tuple[Leftover, ...] = ()
        self._what = what
        self._on_leftovers = on_leftovers
        self._step_seconds = step_seconds
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def push(
        self,
        step: str,
        action: Callable[P, Awaitable[object] | object],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Remember how to undo a step. `action` may be a function or a coroutine function."""
        self._steps.append((step, lambda: action(*args, **kwargs)))

    def commit(self) -> None:
        """The operation is done: forget all that was pushed."""
        self._steps.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._steps:
            return
        unwinding = asyncio.ensure_future(self._unwind())
        while not unwinding.done():  # shield() alone lets a second cancel through
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(unwinding)
        unwinding.result()
        if error is not None:
            for leftover in self.leftovers:
                error.add_note(f"not undone: {leftover}")

    async def _unwind(self) -> None:
        failed: list[Leftover] = []
        while self._steps:
            step, action = self._steps.pop()
            try:
                async with asyncio.timeout(self._step_seconds):
                    outcome = action()
                    if inspect.isawaitable(outcome):
                        await outcome
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - every step is tried
                log.warning("%s: could not undo %r: %r", self._what, step, error)
                failed.append(Leftover(step, error))
        self.leftovers = tuple(failed)
        if failed and self._on_leftovers is not None:
            self._on_leftovers(self.leftovers)
