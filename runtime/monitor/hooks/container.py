"""A container of the embedded runtime whose spec has hooks.

init waits twice for the monitor, which runs them meanwhile, each a child of it:

    created ─▶ prestart, createRuntime   in the node's namespaces, with the bundle mounted
               createContainer           in the container's, before its root is pivoted to
    ready   ─▶ startContainer            in the container, as its program
    execve  ─▶ poststart                 in the node's; then the start is told
    the end ─▶ poststop                  in the node's; then the end is told

All before the start is told: the first failure undoes it. A poststop hook's is a remark.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from runtime.codec import decode
from runtime.errors import InitFailed
from runtime.init import channel, credentials, launch
from runtime.init.values import ContainerPlan, ProcessPlan
from runtime.linux import fds
from runtime.linux.namespace import Clone, setns
from runtime.linux.process import Prctl, prctl
from runtime.monitor.container import Container, Said, State
from runtime.monitor.hooks.build import CREATED, Build
from runtime.monitor.hooks.plan import BEFORE_START, POSTSTART, POSTSTOP, START, HookPlan, state
from runtime.monitor.hooks.run import ContainerHook, Job, Jobs, NodeHook, OnEnd, Running
from runtime.monitor.messages import Start
from runtime.monitor.oci.bundle import namespaces
from runtime.monitor.oci.plan import ROOTFS
from runtime.spec import Hook

if TYPE_CHECKING:
    from runtime.monitor.pod import Pod

PATIENCE = 100.0  # seconds for all that a start waits for: the daemon waits a little longer
_LAST_PATIENCE = 10.0  # for all that an end waits for: whoever removes the pod waits for them
_INSIDE = Clone.NEWNS | Clone.NEWCGROUP | Clone.NEWIPC | Clone.NEWUTS | Clone.NEWNET


class HookedContainer(Container):
    """See `Container`."""

    def __init__(self, pod: Pod, request: Start) -> None:
        super().__init__(pod, request)
        self._hooks = HookPlan("", {})
        self._node_fds: list[int] = []  # its network, IPC and UTS namespaces
        self._outside_fd = -1  # a copy of its mounts, with the bundle
        self._jobs: Jobs | None = None
        self._deadline = 0.0
        self._code: int | None = None  # of the first process, which has ended
        self._finished_at = 0

    def _launch(self, descriptors: list[int]) -> None:
        plan_fd, *others = descriptors
        self._node_fds = [os.dup(fd) for fd in others[:3]]
        self._deadline = time.monotonic() + PATIENCE
        super()._launch([plan_fd, *others[3:]])

    def load_plan(self) -> ContainerPlan:
        return decode(ContainerPlan, self._plan().get("container"), path="container")

    def load_process(self) -> ProcessPlan:
        container = cast("fds.Message", self._plan()["container"])
        return decode(ProcessPlan, container.get("process"), path="process")

    def _fork_init(self, surroundings: launch.Surroundings) -> launch.Child:
        self._read_hooks()
        shared = namespaces(self._pod, self.request.pid_namespace)
        build = Build(lambda: str(self._plan()["config"]), self._hooks.place, shared)
        return launch.container(self.load_plan, surroundings, build.sequence())

    def _read_hooks(self) -> None:
        self._hooks = decode(HookPlan, self._plan().get("hooks"), path="hooks")

    def kill(self) -> None:
        if self._jobs is not None and self._failure is None:
            self._give_up(_killed())
            if self._code is not None:
                self._jobs.abort()
        super().kill()

    def _hear(self, said: Said) -> None:
        if isinstance(said, channel.Paused) and not said.stage.startswith(channel.LISTENER):
            if said.stage == CREATED:
                (self._outside_fd,) = said.descriptors
                jobs = [job for stage in BEFORE_START for job in self._listed(stage)]
            else:
                jobs = list(self._listed(START))
            self._run_jobs(jobs, self._resume)
        elif said is None and self._jobs is not None:
            self._give_up(_killed())
        else:
            super()._hear(said)

    def _resume(self) -> None:
        try:
            assert self._channel is not None
            channel.resume(self._channel)
        except OSError as error:  # it was killed; its end is about to be told
            self._give_up(error)

    def _run(self) -> None:
        self._close_channel()
        self._run_jobs(list(self._listed(POSTSTART)), super()._run)

    def _run_jobs(self, jobs: list[Job], then: Callable[[], None]) -> None:
        if not jobs:
            then()
            return
        patience = self._deadline - time.monotonic()
        made = Jobs(
            self._pod.loop, jobs, lambda failed: self._done(failed, then), patience=patience
        )
        self._jobs = made
        made.start()

    def _done(self, failures: list[InitFailed], then: Callable[[], None]) -> None:
        assert self._jobs is not None
        self._stages += self._jobs.stages
        self._jobs = None
        if failures:
            self._give_up(failures[0])
        if self._failure is None:
            then()
        if self._code is not None:
            self._end(self._code, self._finished_at)

    def _on_exit(self, code: int) -> None:
        """Of a start that has failed, a hook that runs is the last thing to end."""
        self._code, self._finished_at = code, time.time_ns()
        while self._hear_one():
            pass
        if self._jobs is None:
            self._end(code, self._finished_at)
        elif self._failure is not None:
            self._jobs.abort()

    def _conclude(self) -> None:
        jobs = list(self._listed(POSTSTOP)) if self._outside_fd >= 0 else []
        self.state = State.ENDING
        if jobs and self.exit is not None:
            self._pod.write_down(self.exit)
        Jobs(self._pod.loop, jobs, self._ended, patience=_LAST_PATIENCE, keep_going=True).start()

    def _ended(self, failures: list[InitFailed]) -> None:
        for failure in failures:
            fds.log(f"container {self.id}: {failure}")
        if self.exit is not None and failures:
            said = "; ".join(filter(None, (self.exit.message, *map(str, failures))))
            self.exit = replace(self.exit, message=said)
        fds.close_all((*self._node_fds, self._outside_fd))
        self._node_fds, self._outside_fd = [], -1
        super()._conclude()

    def _listed(self, stage: str) -> Iterator[Job]:
        make = {START: self._in_container, "createContainer": self._inside}.get(
            stage, self._outside
        )
        for hook in self._hooks.hooks.get(stage, ()):
            step = f"{stage} hook {hook.path}"
            yield Job(step, hook, make(stage, (step, hook)))

    def _outside(self, stage: str, job: tuple[str, Hook]) -> Callable[[float, OnEnd], Running]:
        status = {POSTSTART: "running", POSTSTOP: "stopped"}.get(stage, "creating")

        def enter() -> None:
            setns(self._outside_fd, Clone.NEWNS)
            for fd in self._node_fds:
                setns(fd, 0)

        def start(patience: float, on_end: OnEnd) -> Running:
            made = NodeHook(self._pod, job, on_end)
            pid = 0 if stage == POSTSTOP else self.pid
            said, place = state(self.id, status, pid, self._hooks), self._hooks.place
            made.start(enter, said, directory=place, patience=patience)
            return made

        return start

    def _inside(self, _stage: str, job: tuple[str, Hook]) -> Callable[[float, OnEnd], Running]:
        root, user_fd = f"{self._hooks.place}/{ROOTFS}", self._pod.facts.user_fd

        def enter() -> None:
            setns(self.pidfd, _INSIDE)
            os.chdir(root)  # while we may: not everybody gets to the node's directories
            if user_fd >= 0:
                os.setgroups([])
                credentials.become_root_of(user_fd)
                prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)  # cleared by that

        def start(patience: float, on_end: OnEnd) -> Running:
            made = NodeHook(self._pod, job, on_end)
            sheltered = self.birth is not None  # or others would see a program of the node
            pid = self.pid if sheltered else self._pid_inside()
            said = state(self.id, "creating", pid, self._hooks)
            pid_ns_fd = -1 if sheltered else self.pid_namespace_fd()
            try:
                made.start(enter, said, directory=".", patience=patience, pid_ns_fd=pid_ns_fd)
            finally:
                fds.close_all((pid_ns_fd,))
            return made

        return start

    def _in_container(
        self, _stage: str, job: tuple[str, Hook]
    ) -> Callable[[float, OnEnd], Running]:
        def start(patience: float, on_end: OnEnd) -> Running:
            made = ContainerHook(self, self._pod, job, patience)
            made.begin(state(self.id, "created", self._pid_inside(), self._hooks), on_end)
            return made

        return start

    def _pid_inside(self) -> int:
        """Of the first process, as those in its pid namespace see it."""
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
            numbers = (int(line.split()[-1]) for line in file if line.startswith("NSpid:"))
            return next(numbers, 0)


def _killed() -> InitFailed:
    return InitFailed("hooks", 0, "the container was killed while they ran")
