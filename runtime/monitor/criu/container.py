"""A container whose processes CRIU makes anew from a checkpoint; from then on it is as any other.

CRIU, a child of the monitor ─▶ first process, born as its sibling, so ours ─▶ CRIU ends ─▶ RUNNING
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from runtime.checkpoint import criu
from runtime.errors import InitFailed
from runtime.init.channel import Stage, Words, written
from runtime.init.context import Surroundings
from runtime.linux import fds
from runtime.linux.fds import Message, Socket
from runtime.linux.namespace import Clone, setns
from runtime.monitor.container import Container, State
from runtime.monitor.messages import Start
from runtime.monitor.program import Program

if TYPE_CHECKING:
    from runtime.init.steps import Step
    from runtime.monitor.pod import Pod

_PATIENCE = 110.0  # seconds; the daemon waits ten more


@dataclass(frozen=True, slots=True)
class Order:
    """directory: of the checkpoint; criu: the program; shm: as `Start` says; stdio: the container's
    ends, -1 for none; first: no other container has been started in the pod."""

    directory: str
    criu: str
    shm: str
    stdio: tuple[int, int, int]
    first: bool


class RestoredContainer(Container):
    """A container of `pod` that goes on from a checkpoint."""

    def __init__(self, pod: Pod, request: Start) -> None:
        super().__init__(pod, request)
        self._program: Program | None = None
        self._held = False  # of the reaper
        self._began = 0

    def kill(self) -> None:
        if self.state is State.STARTING and self._program is not None:
            self._program.kill()
        super().kill()

    def _launch(self, descriptors: list[int]) -> None:
        self._began = time.monotonic_ns()
        request, pod = self.request, self._pod
        plan_fd, *cgroup_fds = descriptors
        self._plan_fd = os.dup(plan_fd)
        self._open_log()
        unified = pod.hierarchy.version == 2
        stdio: list[int] = []
        pid_ns_fd = -1
        try:
            self._make_pipes(stdio)
            pid_ns_fd = pod.pid_namespace_fd(request.pid_namespace)
            surroundings = Surroundings(
                mount_ns_fd=pod.facts.mount_fd,
                pid_ns_fd=pid_ns_fd,
                own_pid_namespace=request.pid_namespace == "own",
                tasks=() if unified else tuple(cgroup_fds),
                user_ns_fd=pod.facts.user_fd,
            )
            order = Order(
                request.checkpoint,
                request.criu,
                request.shm,
                (stdio[0], stdio[1], stdio[2]),
                pod.has_only(self),
            )

            def body(peer: Socket) -> None:
                from runtime.monitor.criu import restore  # in the child: the monitor stays small

                restore.become(peer, self.load_plan(), surroundings, order, self._build)

            self._program = Program(pod, "criu restore", self._restored, self._hear_child)
            pod.reaper.hold()
            self._held = True
            cgroup_fd = cgroup_fds[0] if unified and cgroup_fds else -1
            self._program.start(body, patience=_PATIENCE, cgroup_fd=cgroup_fd)
        finally:
            fds.close_all((*stdio, pid_ns_fd))

    def _build(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """What the child does before CRIU comes. Runs in it."""
        return steps

    def _hear_child(self, message: Message, descriptors: list[int]) -> None:
        """It has a terminal; then: it waits for its processes."""
        if message["type"] == "console":
            (master,) = descriptors
            self._drain(self._stdout, master)
            return
        fds.close_all(descriptors)
        self._words = cast(Words, message["identity"])
        self._init_stages = written(cast("list[Stage]", message["stages"]))
        self._warnings += cast(list[str], message["warnings"])

    def _restored(self, code: int, failure: InitFailed | None) -> None:
        """CRIU has ended: the processes run, or there are none."""
        self._program = None
        directory = self.request.checkpoint
        self._stages.append(("restore", self._began, time.monotonic_ns() - self._began))
        if failure or code or self.who is None:
            text = criu.complaint(f"{directory}/{criu.RESTORE_LOG}", code)
            self._give_up(failure or InitFailed("criu restore", 0, text))
            return
        try:
            with open(f"{directory}/{criu.PID_FILE}", encoding="ascii") as file:
                self.pid = int(file.read())
        except (OSError, ValueError):
            self._give_up(InitFailed("criu restore", 0, "it succeeded, but told no pid"))
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended, and the reaper knows
            self.pidfd = os.pidfd_open(self.pid)
        self._pod.reaper.claim(self.pid, self._on_exit)
        self._adopt_ipc()
        self._let_go()
        self._run()

    def _adopt_ipc(self) -> None:
        """Where CRIU has made a new IPC namespace it is the pod's from now on: we are the one from
        whom its other containers inherit it."""
        with contextlib.suppress(OSError):  # it has ended, and what it had with it
            made = os.open(f"/proc/{self.pid}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(made).st_ino != os.stat("/proc/self/ns/ipc").st_ino:
                    setns(made, Clone.NEWIPC)
            finally:
                os.close(made)

    def _give_up(self, error: BaseException) -> None:
        """What CRIU may have made is ended with the cgroup."""
        self._let_go()
        if self._failure is None:
            self._failure = error
            with contextlib.suppress(OSError):
                self.cgroup.kill()
            self._end(0)

    def _let_go(self) -> None:
        if self._held:
            self._held = False
            self._pod.reaper.release()


def made(pod: Pod, request: Start) -> RestoredContainer:
    """A container that goes on from a checkpoint, with hooks or without."""
    if request.hooks:
        from runtime.monitor.criu.hooked import RestoredHookedContainer

        return RestoredHookedContainer(pod, request)
    return RestoredContainer(pod, request)
