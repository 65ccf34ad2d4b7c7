"""A container with hooks that goes on from a checkpoint.

Its mounts are made anew, so the hooks that may change them run anew, while the child that is going
to be CRIU waits: prestart, createRuntime, createContainer. No program is started, so neither
startContainer nor poststart hooks have anything to do; poststop hooks run at the end, as ever.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from runtime.errors import InitFailed
from runtime.linux import fds
from runtime.linux.fds import Message
from runtime.monitor.container import Container
from runtime.monitor.criu.container import RestoredContainer
from runtime.monitor.hooks.build import Build
from runtime.monitor.hooks.container import PATIENCE, HookedContainer
from runtime.monitor.hooks.plan import BEFORE_START
from runtime.monitor.oci.bundle import namespaces

if TYPE_CHECKING:
    from runtime.init.steps import Step
    from runtime.monitor.messages import Start
    from runtime.monitor.pod import Pod


class RestoredHookedContainer(RestoredContainer, HookedContainer):
    """See both."""

    def __init__(self, pod: Pod, request: Start) -> None:
        super().__init__(pod, request)
        self._refusal: InitFailed | None = None  # why the child is being killed

    def _launch(self, descriptors: list[int]) -> None:
        plan_fd, *others = descriptors
        self._node_fds = [os.dup(fd) for fd in others[:3]]
        self._deadline = time.monotonic() + PATIENCE
        RestoredContainer._launch(self, [plan_fd, *others[3:]])

    def _build(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        self._read_hooks()
        shared = namespaces(self._pod, self.request.pid_namespace)
        config = str(self._plan()["config"])
        return Build(lambda: config, self._hooks.place, shared).sequence(steps)

    def _hear_child(self, message: Message, descriptors: list[int]) -> None:
        """It waits for the hooks."""
        if message["type"] != "paused":
            super()._hear_child(message, descriptors)
            return
        assert self._program is not None
        self._read_hooks()
        (self._outside_fd,) = descriptors
        self.pid = self._program.pid
        self.pidfd = os.pidfd_open(self.pid)
        jobs = [job for stage in BEFORE_START for job in self._listed(stage)]
        self._run_jobs(jobs, self._go_on)

    def _go_on(self) -> None:
        self._forget_child()
        if self._program is not None:
            self._program.resume()

    def _forget_child(self) -> None:
        """Whom hooks knew as the container's process."""
        fds.close_all((self.pidfd,))
        self.pid, self.pidfd = 0, -1

    def _give_up(self, error: BaseException) -> None:
        if self._program is None or not self._program.running:
            super()._give_up(error)
            return
        if self._refusal is None:
            failed = InitFailed("hooks", 0, str(error))
            self._refusal = error if isinstance(error, InitFailed) else failed
        if self._jobs is not None:
            self._jobs.abort()
        self._program.kill()

    def _restored(self, code: int, failure: InitFailed | None) -> None:
        if self._jobs is not None:  # it has ended before them
            self._jobs.abort()
        if self.pidfd >= 0:
            self._forget_child()
        super()._restored(code, self._refusal or failure)

    def _run(self) -> None:
        Container._run(self)
