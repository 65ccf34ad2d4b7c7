"""A container that the pod's shim makes, starts and ends; its processes are the shim's children.

shim ready ─▶ bundle ─▶ Create ─▶ Wait, Start ─▶ RUNNING
its end, by Wait ─▶ Delete ─▶ bundle removed ─▶ EXITED
the shim's end ─▶ the shim's `delete` ─▶ bundle removed ─▶ EXITED

Its input and output are the monitor's pipes, as with the embedded runtime: the shim opens them by
their names in /proc.
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
from runtime.linux.fds import Message
from runtime.monitor.container import Container, State
from runtime.monitor.messages import Exec, ExecStream, Start
from runtime.monitor.program import Program
from runtime.monitor.shim.command import ShimCommand, pipe_name
from runtime.monitor.shim.link import TookTooLong, gone
from runtime.monitor.shim.plan import TaskPlan
from runtime.monitor.shim.plan import bundle as bundle_path
from runtime.monitor.shim.shim import KILL_PATIENCE, Shim
from runtime.monitor.shim.task import CREATE_PATIENCE, PATIENCE, OnFailure, Task
from runtime.monitor.shim.task_pb2 import CreateTaskRequest, PidResponse, WaitResponse
from runtime.ttrpc.errors import CallFailed

if TYPE_CHECKING:
    from runtime.monitor.pod import Pod

_KILLED = 128 + int(signal.SIGKILL)
_CREATE_GRACE = 5.0  # seconds that a creation which is unwanted may take to fail


class ShimContainer(Container):
    """A container of `pod`; what the embedded runtime's init does, a shim does."""

    def __init__(self, pod: Pod, request: Start) -> None:
        super().__init__(pod, request)
        if pod.shim is None or (pod.shim.gone and not pod.shim.containers and not pod.shim.alone):
            pod.shim = Shim(pod, request.handler)
        self.shim: Shim = pod.shim
        self._task = Task(self.shim, self.id)
        self.out_of_memory = False
        self.commands: set[ShimCommand] = set()
        self._ends: list[int] = []  # the shim's of our pipes, until it has opened them
        self._queued = False  # the shim is being started
        self._program: Program | None = None  # makes the bundle
        self._creating = False  # the shim is at it, and somebody waits
        self._made = False  # the shim knows the container
        self._unwanted = False
        self._leaving = False  # its bundle is being removed, then it has ended
        self._waiting = 0  # the call that ends with the container
        self._code = _KILLED
        self._finished_at = 0
        self._numbers = itertools.count(1)
        self._began = 0

    def load_shim(self) -> TaskPlan:
        """What the daemon has compiled."""
        return decode(TaskPlan, self._plan())

    def next_name(self) -> str:
        """Of a command: what the shim knows it by."""
        return f"exec-{next(self._numbers)}"

    def command(self, request: Exec | ExecStream) -> ShimCommand:
        return ShimCommand(self, request, self._pod)

    @property
    def stdin_fd(self) -> int:
        """A pipe's write end, with a terminal too: that is the shim's."""
        return self._stdin_fd

    def close_stdin(self) -> None:
        if self.request.terminal or self._stdin_fd < 0:
            return
        super().close_stdin()
        self._task.end_input(self._log_failure("close stdin"))

    @property
    def remote_terminal(self) -> bool:
        return self.request.terminal

    def resize(self, width: int, height: int) -> None:
        self._task.resize(width, height, self._log_failure("resize"))

    def signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            self.kill()
        else:
            self._send(number, everyone=False)

    def kill(self) -> None:
        if self.state is State.EXITED:
            return
        self._unwanted = True
        if self._queued:
            self._queued = False
            self._fail(self._unwanted_fault())
        if self._program is not None:
            self._program.kill()
        if self._creating:
            self._kill_cgroup()  # with what it is about to be made of, most creations fail
            self._pod.loop.after(_CREATE_GRACE, self._leave_creating)
        if self._made:
            self._send(int(signal.SIGKILL), everyone=True)

    def _leave_creating(self) -> None:
        """It is not waited for any longer: what comes of it is deleted when it comes."""
        if self._creating:
            self._creating = False
            self._fail(self._unwanted_fault())

    def _send(self, number: int, *, everyone: bool) -> None:
        def failed(error: RuntimeFault) -> None:
            if self.state is State.EXITED or gone(error):
                return
            fds.log(f"container {self.id}: signal {number}: {error}")
            if everyone and isinstance(error, TookTooLong):
                self.shim.give_up("it does not kill what it is told to")
            elif everyone:
                self._kill_cgroup()

        patience = KILL_PATIENCE if everyone else PATIENCE
        self._task.kill(number, failed, everyone=everyone, patience=patience)

    def _kill_cgroup(self) -> None:
        """Where the shim does not. A machine's processes are not in it."""
        with contextlib.suppress(OSError, RuntimeFault):
            if self.cgroup.exists():
                self.cgroup.kill()

    def _launch(self, descriptors: list[int]) -> None:
        self._began = time.monotonic_ns()
        self._plan_fd = os.dup(descriptors[0])
        self._open_log()
        self.shim.containers[self.id] = self
        self._queued = True
        self.shim.when_ready(self.load_shim(), self.request.pid_namespace, self._shim_ready)

    def _shim_ready(self, failure: RuntimeFault | None) -> None:
        if not self._queued:
            return  # killed meanwhile
        self._queued = False
        self._mark("shim")
        try:
            if failure is not None:
                raise failure
            self._refuse_unwanted()
            around = self.shim.around(self.id, self.request.pid_namespace)
            house = self.shim.house
            assert house is not None
            told = self._bundled, self._hear_child
            self._program = self.shim.chores.add(self.load_shim, house, around, told)
        except (OSError, RuntimeFault) as error:
            self._fail(error)

    def _hear_child(self, message: Message, _descriptors: list[int]) -> None:
        self._words = cast(Words, message["identity"])
        self._warnings += cast(list[str], message["warnings"])

    def _bundled(self, code: int, failure: InitFailed | None) -> None:
        self._program = None
        self._mark("bundle")
        try:
            self._refuse_unwanted()
            if failure or code:
                raise failure or InitFailed(self.shim.step("bundle"), 0, f"exit status {code}")
            if self.shim.ended:
                raise InitFailed(self.shim.step("create"), 0, "the pod's shim is gone")
            self._make_pipes(self._ends)
        except (OSError, RuntimeFault) as error:
            self._fail(error)
            return
        request = CreateTaskRequest(
            id=self.id, bundle=bundle_path(self.id), terminal=self.request.terminal
        )
        request.stdin, request.stdout, request.stderr = map(pipe_name, self._ends)
        self.load_shim().give_options(request)
        self._creating = True
        told = self._created, self._refused("create")
        self.shim.call("Create", request, PidResponse, told, patience=CREATE_PATIENCE)

    def _make_pipes(self, ends: list[int]) -> None:
        """A terminal is the shim's: what it prints comes by a pipe, and so does its input. Without
        input there is a pipe that has ended, lest the container be given the node's /dev/null."""
        request = self.request
        if request.terminal and not request.stdin:
            ends.append(-1)  # the end of its input would be the terminal's
        else:
            stdin, write_end = os.pipe2(os.O_CLOEXEC)
            ends.append(stdin)
            self._stdin_fd = write_end
            if not request.stdin:
                super().close_stdin()
        for stream in (self._stdout,) if request.terminal else (self._stdout, self._stderr):
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            self._drain(stream, read_fd)
            ends.append(write_fd)
        ends += [-1] * (3 - len(ends))

    def _created(self, answer: PidResponse) -> None:
        if not self._creating:  # too late
            self._task.kill(int(signal.SIGKILL), everyone=True)
            self._task.delete()
            return
        self._mark("create")
        self._creating, self._made = False, True
        self.pid = answer.pid
        self._waiting = self._task.wait((self._exited, self._lost))
        if self._unwanted:
            self._fail(self._unwanted_fault())
            return
        self._task.start((self._begun, self._refused("start")))

    def _begun(self, answer: PidResponse) -> None:
        self._mark("start")
        self.pid = answer.pid
        self._close_ends(1)  # it may open its input only after it has answered
        if not self.request.terminal and not self.request.stdin:
            self._task.end_input(self._log_failure("close stdin"))
        self._run()
        if self._finished_at:
            self._finish()

    def _exited(self, answer: WaitResponse) -> None:
        """The first process has ended; if it is being started, its start is told before."""
        self._code = answer.exit_status
        when = answer.exited_at
        self._finished_at = when.seconds * 10**9 + when.nanos or time.time_ns()
        if self.state is State.RUNNING:
            self._finish()

    def _lost(self, error: RuntimeFault) -> None:
        """Wait has failed; that the shim is gone `lose_shim` hears."""
        if isinstance(error, CallFailed) and self.state is State.RUNNING:
            self._complaint = str(self.shim.fault("wait", error))
            self._finish()

    def _finish(self) -> None:
        """Counts what is gone with the cgroup, then has the shim forget the container."""
        with contextlib.suppress(OSError, RuntimeFault):
            if self.cgroup.exists():
                self._look_for_oom_kills()
                self.cgroup.kill()  # of a shared pid namespace others may live on
        told = (lambda _answer: self._deleted(None)), self._deleted
        self._task.delete(told, patience=KILL_PATIENCE)

    def _deleted(self, failure: RuntimeFault | None) -> None:
        if not self._made:
            return  # the shim has gone meanwhile, and `lose_shim` does the rest
        self._made = False
        if failure is not None and self._failure is None and not gone(failure):
            self._complaint = str(self.shim.fault("delete", failure))
        self._remove_bundle()

    def _remove_bundle(self) -> None:
        self._leaving = True
        house = self.shim.house
        if house is None:
            self._over()
            return
        self.shim.chores.remove(house, self.id, self._over)

    def _over(self) -> None:
        for command in tuple(self.commands):
            command.lose_container()
        self.shim.leave(self.id)
        self._end(self._code, max(self._finished_at, self._started_at))

    def lose_shim(self, why: str) -> None:
        """The shim is gone: its `delete` removes what it has left of this container."""
        if self._leaving or self._program is not None:
            return
        was_made, self._made = self._made, False
        self._queued = self._creating = False  # nobody will answer
        if self.state is State.STARTING:
            self._failure = self._failure or InitFailed(self.shim.step("start"), 0, why)
        else:
            self._complaint = f"the {self.shim.handler} shim of the pod is gone: {why}"
        self._kill_cgroup()
        house = self.shim.house
        if was_made and house is not None:
            self.shim.chores.delete(self.load_shim, house, self.id, self._remove_bundle)
        else:
            self._remove_bundle()

    def _refuse_unwanted(self) -> None:
        if self._unwanted:
            raise self._unwanted_fault()

    def _unwanted_fault(self) -> InitFailed:
        return InitFailed(self.shim.step("start"), 0, "killed before it could start")

    def _refused(self, verb: str) -> OnFailure:
        def refused(error: RuntimeFault) -> None:
            self._creating = False
            if self._leaving or self.shim.ended:
                return  # `lose_shim` has heard of it, or nobody waits
            if isinstance(error, TookTooLong):
                self._made = True  # or will be, so it is to be deleted
            self._fail(self.shim.fault(verb, error))

        return refused

    def _fail(self, error: BaseException) -> None:
        """The start has failed: whatever the shim has made goes, then the answer is given."""
        self._failure = error
        if self._waiting:
            self.shim.forget(self._waiting)
        if self._made:
            self._send(int(signal.SIGKILL), everyone=True)
            self._finish()
        else:
            self._remove_bundle()

    def _give_up(self, error: BaseException) -> None:
        """Nothing has been asked of the shim."""
        self._queued = False
        self._failure = error
        self._over()

    def _look_for_oom_kills(self) -> None:
        """By the shim's event only where no cgroup of the node could tell."""
        if self._oom_killed is None and self.out_of_memory and not self.cgroup.exists():
            self._oom_killed = True
        super()._look_for_oom_kills()

    def _release(self) -> None:
        self._close_ends()
        super()._release()

    def _close_ends(self, first: int = 0) -> None:
        fds.close_all(self._ends[first:])
        del self._ends[first:]

    def _log_failure(self, what: str) -> OnFailure:
        def failed(error: RuntimeFault) -> None:
            if self.state is State.RUNNING and not gone(error):
                fds.log(f"container {self.id}: {what}: {error}")

        return failed

    def _mark(self, verb: str) -> None:
        now = time.monotonic_ns()
        self._stages.append((self.shim.step(verb), self._began, now - self._began))
        self._began = now
