"""A container that an OCI runtime's binary makes, starts and ends; its parent is the monitor.

create ─▶ first process, orphaned by the binary, so ours ─▶ start ─▶ RUNNING
its end ─▶ delete --force ─▶ EXITED                  a failure ─▶ delete --force ─▶ nothing left
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from typing import TYPE_CHECKING, cast

from runtime.codec import decode
from runtime.errors import InitFailed, RuntimeFault
from runtime.init.channel import Words
from runtime.linux import fds
from runtime.linux.fds import Message, Socket
from runtime.linux.namespace import Clone, setns
from runtime.monitor.container import Container, State
from runtime.monitor.messages import Exec, ExecStream, Start
from runtime.monitor.oci import bundle
from runtime.monitor.oci.command import OciCommand, claim
from runtime.monitor.oci.plan import CREATE, OciPlan, last_error
from runtime.monitor.program import OnEnd, Program, execute

if TYPE_CHECKING:
    from runtime.monitor.pod import Pod

_CREATE_PATIENCE = 100.0  # seconds; a bind source on a slow network file system may take its time
_PATIENCE = 10.0  # for start, kill and delete


class OciContainer(Container):
    """A container of `pod`; what the embedded runtime's init does, a binary does."""

    def __init__(self, pod: Pod, request: Start) -> None:
        super().__init__(pod, request)
        self.namespace_fd = self.bundle_fd = -1
        self._listener_fd = -1
        self._program: Program | None = None  # create or start, while it runs
        self._code: int | None = None  # of the first process, which has ended
        self._finished_at = 0
        self._numbers = itertools.count(1)
        self._began = 0

    def load_oci(self) -> OciPlan:
        """Only for a forked child."""
        return decode(OciPlan, self._plan())

    def next_name(self) -> str:
        """Of the files that belong to one run of the binary."""
        return f"run-{next(self._numbers)}"

    def step(self, verb: str) -> str:
        """What a run of the binary is called: "runc create"."""
        return f"{self.request.handler} {verb}"

    def complaint(self, verb: str, code: int, log: str) -> InitFailed:
        """The failure of a run, in the binary's own words if it has some."""
        said = last_error(bundle.read(self.bundle_fd, log)) if self.bundle_fd >= 0 else ""
        return InitFailed(
            self.step(verb), 0, said or f"exit status {code}, and it does not say why"
        )

    def command(self, request: Exec | ExecStream) -> OciCommand:
        return OciCommand(self, request, self._pod)

    def signal(self, number: int) -> None:
        """By the binary, which may be more than a process away from the container's."""
        if number == signal.SIGKILL:
            self.kill()
            return

        def ended(code: int, failure: InitFailed | None) -> None:
            if (failure or code) and self.state is not State.EXITED:
                fds.log(f"container {self.id}: signal {number}: {failure or f'exit status {code}'}")

        self._run_binary("kill", (str(number),), ended)

    def kill(self) -> None:
        if self.state is State.EXITED:
            return
        if self._program is not None:
            self._program.kill()  # what it has begun is deleted when it is gone
        super().kill()

    def _launch(self, descriptors: list[int]) -> None:
        self._began = time.monotonic_ns()
        request, pod = self.request, self._pod
        plan_fd, *cgroup_fds = descriptors
        self._plan_fd = os.dup(plan_fd)
        self._open_log()
        unified = pod.hierarchy.version == 2
        stdio: list[int] = []
        try:
            self._make_pipes(stdio)
            around = bundle.Around(
                container_id=self.id,
                stdio=(stdio[0], stdio[1], stdio[2]),
                mount_ns_fd=pod.facts.mount_fd,
                namespaces=bundle.namespaces(pod, request.pid_namespace),
                tasks=() if unified else tuple(cgroup_fds),
            )

            def body(peer: Socket) -> None:
                bundle.create(peer, self.load_oci(), around)

            self._program = Program(pod, self.step("create"), self._created, self._hear_child)
            pod.reaper.hold()
            self._program.start(
                body,
                patience=_CREATE_PATIENCE,
                cgroup_fd=cgroup_fds[0] if unified and cgroup_fds else -1,
            )
        finally:
            fds.close_all(stdio)

    def _hear_child(self, message: Message, descriptors: list[int]) -> None:
        """The bundle is there."""
        self.namespace_fd, self.bundle_fd, *listener = descriptors
        self._listener_fd = listener[0] if listener else -1
        self._words = cast(Words, message["identity"])
        self._warnings += cast(list[str], message["warnings"])

    def _created(self, code: int, failure: InitFailed | None) -> None:
        self._program = None
        self._mark("create")
        console = bundle.take_console(self._listener_fd) if self._listener_fd >= 0 else -1
        self._listener_fd = -1
        if console >= 0:
            self._drain(self._stdout, console)
        if failure or code:
            self._fail(failure or self.complaint("create", code, f"{CREATE}.log"))
            return
        told = bundle.told_pid(self.bundle_fd, CREATE)
        step = self.step("create")
        try:
            if self.request.terminal and console < 0:
                raise InitFailed(step, 0, "it succeeded, but told no terminal")
            claim(self._pod.reaper, told, self._on_exit, step)
        except InitFailed as error:
            self._fail(error)
            return
        self.pid = told
        with contextlib.suppress(ProcessLookupError):  # it has ended, and the reaper knows
            self.pidfd = os.pidfd_open(self.pid)
        self._program = self._run_binary("start", (), self._start_ended)

    def _start_ended(self, code: int, failure: InitFailed | None) -> None:
        self._program = None
        self._mark("start")
        if failure or code:
            self._fail(failure or self.complaint("start", code, "start.log"))
            return
        self._pod.reaper.release()
        self._run()
        if self._code is not None:
            self._finish()

    def _fail(self, error: BaseException) -> None:
        """The start has failed: whatever the binary has made goes, then the answer is given."""
        self._failure = error
        self._pod.reaper.release()
        super().kill()
        self._finish()

    def _give_up(self, error: BaseException) -> None:
        """Nothing has been forked."""
        self._failure = error
        if self._program is not None:
            self._program = None
            self._pod.reaper.release()
        self._end(0)

    def _on_exit(self, code: int) -> None:
        """The first process has ended; if it is being started, its start is told before."""
        self._code, self._finished_at = code, time.time_ns()
        if self.state is State.RUNNING:
            self._finish()

    def _finish(self) -> None:
        """Counts what is gone with the cgroup, then has the binary forget the container."""
        with contextlib.suppress(OSError, RuntimeFault):
            self._look_for_oom_kills()
            if self.cgroup.exists():
                self.cgroup.kill()  # of a shared pid namespace others may live on
        if self.bundle_fd < 0:
            self._end(0)
            return
        self._run_binary("delete", ("--force",), self._deleted)

    def _deleted(self, code: int, failure: InitFailed | None) -> None:
        if (failure or code) and self._failure is None:
            self._complaint = str(failure or self.complaint("delete", code, "delete.log"))
        self._end(self._code or 0, max(self._finished_at, self._started_at))

    def _release(self) -> None:
        super()._release()
        fds.close_all((self.namespace_fd, self.bundle_fd))
        self.namespace_fd = self.bundle_fd = -1

    def _run_binary(self, verb: str, words: tuple[str, ...], on_end: OnEnd) -> Program | None:
        """`binary VERB [options] ID [signal]`, in the bundle's namespace; on_end is always told."""
        program = Program(self._pod, self.step(verb), on_end)

        def body(_peer: Socket) -> None:
            plan = self.load_oci()
            command = plan.command(f"{verb}.log", verb, *_order(verb, self.id, words))
            setns(self.namespace_fd, Clone.NEWNS)
            execute(command)

        try:
            program.start(body, patience=_PATIENCE)
        except OSError as error:  # no process can be made
            on_end(0, InitFailed(self.step(verb), error.errno or 0, "can't be run"))
            return None
        return program

    def _mark(self, verb: str) -> None:
        now = time.monotonic_ns()
        self._stages.append((self.step(verb), self._began, now - self._began))
        self._began = now


def _order(verb: str, container_id: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Options go before the id, a signal goes after it."""
    return (container_id, *words) if verb == "kill" else (*words, container_id)
