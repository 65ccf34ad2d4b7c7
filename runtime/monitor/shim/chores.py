"""What the monitor has its children do in a shim's house: bundles are made there, and removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.errors import InitFailed
from runtime.linux import fds
from runtime.monitor.program import Program
from runtime.monitor.shim import bundle
from runtime.monitor.shim.task import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.linux.fds import Socket
    from runtime.monitor.pod import Pod
    from runtime.monitor.program import OnEnd, OnWord
    from runtime.monitor.shim.bundle import Around, House
    from runtime.monitor.shim.plan import ShimPlan, TaskPlan


class Chores:
    """Of the shim of `pod`. handler: its name, by which failures call what has failed."""

    def __init__(self, pod: Pod, handler: str) -> None:
        self._pod = pod
        self._handler = handler

    def add(
        self,
        load: Callable[[], TaskPlan],
        house: House,
        around: Around,
        told: tuple[OnEnd, OnWord],
    ) -> Program | None:
        """Makes a container's bundle. load: called in the child."""

        def body(peer: Socket) -> None:
            bundle.add(peer, load(), house, around)

        return self._fork("bundle", body, *told)

    def remove(self, house: House, task_id: str, done: Callable[[], None]) -> None:
        """What is left of a bundle."""

        def body(peer: Socket) -> None:
            bundle.remove(peer, house, task_id)

        self._fork("remove", body, lambda _code, _failure: done())

    def delete(
        self, load: Callable[[], ShimPlan], house: House, task_id: str, done: Callable[[], None]
    ) -> None:
        """What a dead shim has left of a task, by its own `delete`."""
        ids = self._pod.sandbox_id, task_id

        def body(peer: Socket) -> None:
            bundle.delete(peer, load(), house, ids)

        def ended(_code: int, failure: InitFailed | None) -> None:
            if failure is not None:
                fds.log(f"task {task_id}: {failure}")
            done()

        self._fork("delete", body, ended)

    def _fork(
        self,
        verb: str,
        body: Callable[[Socket], None],
        on_end: OnEnd,
        on_word: OnWord | None = None,
    ) -> Program | None:
        """on_end: told in any case; if nothing can be forked, from within."""
        step = f"{self._handler} {verb}"
        program = Program(self._pod, step, on_end, on_word)
        try:
            program.start(body, patience=PATIENCE)
        except OSError as error:  # no process can be made
            on_end(0, InitFailed(step, error.errno or 0, "can't be run"))
            return None
        return program
