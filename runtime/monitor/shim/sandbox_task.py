"""A pod's sandbox as a task before the others, for shims that make a machine of it.

Create ─▶ Start ─▶ READY;  the pod's end ─▶ Kill ─▶ Wait ─▶ Delete
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from runtime.errors import RuntimeFault
from runtime.linux import fds
from runtime.monitor.shim.link import nobody
from runtime.monitor.shim.plan import bundle
from runtime.monitor.shim.task import CREATE_PATIENCE, PATIENCE, Task
from runtime.monitor.shim.task_pb2 import CreateTaskRequest, PidResponse, WaitResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.monitor.shim.plan import ShimPlan
    from runtime.monitor.shim.shim import OnReady, Shim


class SandboxTask:
    """A sandbox of `shim` (see `PodSandbox`): a container of one program, which waits."""

    alone = False

    def __init__(self, shim: Shim, sandbox_id: str) -> None:
        self._shim = shim
        self._id = sandbox_id
        self._task = Task(shim, sandbox_id)

    def start(self, plan: ShimPlan) -> None:
        request = CreateTaskRequest(id=self._id, bundle=bundle(self._id))
        plan.give_options(request)
        told = self._created, self._failed
        self._shim.call("Create", request, PidResponse, told, patience=CREATE_PATIENCE)

    def check(self, told: OnReady) -> None:
        told(None)

    def end(self, done: Callable[[], None]) -> None:
        def delete(_answer: object) -> None:
            self._task.delete((lambda _answer: done(), lambda _error: done()))

        self._task.wait((delete, delete), patience=PATIENCE)
        self._task.kill(int(signal.SIGKILL), everyone=True)

    def _created(self, _answer: PidResponse) -> None:
        self._task.start((self._started, self._failed))

    def _started(self, _answer: PidResponse) -> None:
        self._task.wait((self._ended, nobody))
        self._shim.sandbox_ready()

    def _failed(self, error: RuntimeFault) -> None:
        self._shim.give_up(f"the sandbox task: {error}")

    def _ended(self, answer: WaitResponse) -> None:
        """Of a machine that is the end; where containers are the kernel's, they live on."""
        if not self._shim.ending:
            text = f"the sandbox task has ended: {answer.exit_status}"
            fds.log(f"{self._shim.handler}: {text}")
