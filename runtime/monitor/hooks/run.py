"""One hook, as a process; and hooks one after the other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from runtime.errors import InitFailed, RuntimeFault
from runtime.init import diagnosis, execute, launch, steps
from runtime.init.context import Context
from runtime.init.values import ProcessPlan
from runtime.linux import fds
from runtime.linux.fds import Socket
from runtime.monitor.command import Command
from runtime.monitor.messages import Exec, Executed
from runtime.monitor.program import Program
from runtime.monitor.program import execute as execute_program
from runtime.spec import Hook

if TYPE_CHECKING:
    from runtime.monitor.container import Container
    from runtime.monitor.loop import Loop
    from runtime.monitor.pod import Pod

OnEnd = Callable[[InitFailed | None], None]
_TAIL = 2048  # bytes of what a hook has printed that are told when it fails
_PIECE = 65536


class Running(Protocol):
    """A hook that runs; its end is told to whom its maker was given."""

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Job:
    """A hook to run. step: its name in an InitFailed; start: takes its seconds, and who is told."""

    step: str
    hook: Hook
    start: Callable[[float, OnEnd], Running]


class Jobs:
    """Hooks one after the other, as listed.

    patience: seconds for all of them; on_end: told of the failures, in order; keep_going: a failure
    ends nothing, as that of a poststop hook.
    """

    def __init__(
        self,
        loop: Loop,
        jobs: Sequence[Job],
        on_end: Callable[[list[InitFailed]], None],
        *,
        patience: float,
        keep_going: bool = False,
    ) -> None:
        self._loop = loop
        self._jobs = list(jobs)
        self._on_end = on_end
        self._deadline = time.monotonic() + patience
        self._keep_going = keep_going
        self._failures: list[InitFailed] = []
        self._running: Running | None = None
        self._begun = 0
        self.stages: list[tuple[str, int, int]] = []

    def start(self) -> None:
        if not self._jobs:
            self._on_end(self._failures)
            return
        job = self._jobs[0]
        patience = max(self._deadline - time.monotonic(), 0.001)
        if job.hook.timeout is not None:
            patience = min(patience, job.hook.timeout)
        self._begun = time.monotonic_ns()
        try:
            self._running = job.start(patience, self._ended)
        except (OSError, RuntimeFault) as error:  # no process can be made, or not in there any more
            number = error.errno or 0 if isinstance(error, OSError) else 0
            failure = InitFailed(job.step, number, f"can't be run ({error})")
            self._loop.after(0, lambda: self._ended(failure))

    def abort(self) -> None:
        """Nobody needs the rest: what runs is killed, and its end is the end."""
        del self._jobs[1:]
        if self._running is not None:
            self._running.kill()

    def _ended(self, failure: InitFailed | None) -> None:
        self._running = None
        job = self._jobs.pop(0)
        self.stages.append((job.step, self._begun, time.monotonic_ns() - self._begun))
        if failure is not None:
            self._failures.append(failure)
            if not self._keep_going:
                self._jobs.clear()
        self.start()


class Output:
    """A pipe of which only the end is kept: what a hook printed last."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(self._read_fd, fcntl.F_SETFL, os.O_NONBLOCK)  # not of the end that it gets
        self._tail = b""
        loop.watch(self._read_fd, self._read)

    def begun(self) -> None:
        """The hook has its end now."""
        os.close(self.write_fd)
        self.write_fd = -1

    def end(self) -> str:
        """What was printed last, as text; whoever still has the pipe is not waited for."""
        if self._read_fd >= 0:
            self._read()
        self._close()
        fds.close_all((self.write_fd,))
        return self._tail.decode("utf-8", "replace").strip()

    def _read(self) -> None:
        try:
            data = os.read(self._read_fd, _PIECE)
        except BlockingIOError:
            return
        self._tail = (self._tail + data)[-_TAIL:]
        if not data:
            self._close()

    def _close(self) -> None:
        if self._read_fd >= 0:
            self._loop.unwatch(self._read_fd)
            os.close(self._read_fd)
            self._read_fd = -1


class _Group(Program):
    """A program that ends with what it has started, unless that has left its group."""

    def kill(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):  # it has none of its own yet
                os.killpg(self.pid, signal.SIGKILL)
        super().kill()


class NodeHook:
    """A program of the node."""

    def __init__(self, pod: Pod, job: tuple[str, Hook], on_end: OnEnd) -> None:
        self._step, self._hook = job
        self._on_end = on_end
        self._output = Output(pod.loop)
        self._program = _Group(pod, self._step, self._ended)

    def start(
        self,
        enter: Callable[[], None],
        state: bytes,
        *,
        directory: str,
        patience: float,
        pid_ns_fd: int = -1,
    ) -> None:
        """enter: goes to the namespaces where it is to run; called in its process."""
        state_fd = _state_file(state)
        hook, output = self._hook, self._output

        def body(_peer: Socket) -> None:
            enter()
            stdio = (state_fd, output.write_fd, output.write_fd)
            execute_program(
                hook.args or (hook.path,),
                path=hook.path,
                stdio=stdio,
                environment=dict(item.partition("=")[::2] for item in hook.env),
                directory=directory,
            )

        try:
            self._program.start(body, patience=patience, pid_ns_fd=pid_ns_fd)
        except OSError:
            output.end()
            raise
        finally:
            os.close(state_fd)
        output.begun()

    def kill(self) -> None:
        self._program.kill()

    def _ended(self, code: int, failure: InitFailed | None) -> None:
        said = self._output.end()
        self._on_end(failure or _complaint(self._step, code, said))


class ContainerHook(Command):
    """A program of the container: as its first process will be, in all but what it runs."""

    def __init__(self, container: Container, pod: Pod, job: tuple[str, Hook], seconds: float):
        self._step, self._hook = job
        super().__init__(container, Exec(container.id, (), seconds), pod)
        self._seconds = seconds
        self._output = Output(pod.loop)
        self._on_end: OnEnd = lambda _failure: None

    def begin(self, state: bytes, on_end: OnEnd) -> None:
        self._on_end = on_end
        state_fd = _state_file(state)
        output = self._output
        try:
            self.start([state_fd, output.write_fd, output.write_fd], self._told)
        except (OSError, RuntimeFault):
            output.end()
            raise
        finally:
            os.close(state_fd)
        output.begun()

    def _fork(self, surroundings: launch.Surroundings) -> launch.Child:
        sequence = (*steps.PROCESS[:-1], ("exec", self._execute))
        return launch.process(self._load_plan, self._target, surroundings, sequence)

    def _load_plan(self) -> ProcessPlan:
        plan, hook = self._container.load_process(), self._hook
        who = self._container.who
        assert who is not None  # init waits, so it has told
        args, env = hook.args or (hook.path,), hook.env or plan.env
        return replace(plan, args=args, env=env, terminal=False, identity=who, lookup=None)

    def _execute(self, context: Context) -> None:
        path = os.fsencode(self._hook.path)
        args, env, _ = execute.search(context)
        try:
            os.execve(path, args, env)  # noqa: S606 - a list, no shell
        except OSError as error:
            raise diagnosis.explained(path, error) from None

    def _told(self, result: object) -> None:
        said = self._output.end()
        if isinstance(result, InitFailed):
            self._on_end(InitFailed(f"{self._step}: {result.step}", result.errno, result.text))
        elif isinstance(result, BaseException):
            self._on_end(InitFailed(self._step, 0, str(result)))
        else:
            assert isinstance(result, Executed)
            if result.timed_out:
                said = f"killed: it had not ended after {self._seconds:g} s"
                self._on_end(InitFailed(self._step, 0, said))
            else:
                self._on_end(_complaint(self._step, result.exit_code, said))


def _complaint(step: str, code: int, said: str) -> InitFailed | None:
    if code == 0:
        return None
    return InitFailed(step, 0, f"exit code {code}" + (f": {said}" if said else ""))


def _state_file(state: bytes) -> int:
    fd = os.memfd_create("podwright-state", os.MFD_CLOEXEC)
    os.write(fd, state)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
