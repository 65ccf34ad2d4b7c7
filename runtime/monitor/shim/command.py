"""A command in a container of a shim: Exec, then Wait and Start, at its end Delete."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime.errors import ContainerNotFound, RuntimeFault
from runtime.init import capabilities
from runtime.init.launch import warm_up
from runtime.linux import fds
from runtime.monitor.command import Command
from runtime.monitor.container import State
from runtime.monitor.messages import Exec, ExecStream, Executed
from runtime.monitor.oci import plan as documents
from runtime.monitor.shim.task import Task
from runtime.monitor.shim.task_pb2 import (
    Any,
    Empty,
    ExecProcessRequest,
    PidResponse,
    WaitResponse,
)
from runtime.ttrpc.errors import CallFailed

if TYPE_CHECKING:
    from runtime.monitor.pod import Pod
    from runtime.monitor.shim.container import ShimContainer

_KILLED = 128 + int(signal.SIGKILL)
_GRACE = 1.0  # beyond the command's own time limit, in which a slow shim may still answer
_PATIENCE = 60.0  # seconds for the shim to start the command
_PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"


class ShimCommand(Command):
    """The process is not a subreaper: what it leaves goes to the container's first process."""

    def __init__(self, container: ShimContainer, request: Exec | ExecStream, pod: Pod) -> None:
        super().__init__(container, request, pod)
        self._owner = container
        self._name = container.next_name()
        self._task = Task(container.shim, container.id, self._name)
        self._terminal = isinstance(request, ExecStream) and request.terminal
        self._ends: list[int] = []  # the shim's of the pipes, until it has opened them
        self._ours: list[int] = []  # of a terminal's: where its input goes, where its output comes
        self._input_ended = True  # there is none: the shim is to close it
        self._known = False  # to the shim
        self._unwanted = False
        self._ended = False
        self._waiting = 0  # the call that ends with the command
        self._code: int | None = None

    def start(self, stdio: list[int], answer: Callable[[object], None]) -> None:
        self._answer = answer
        self._make_pipes(stdio)
        stdin, stdout, stderr = map(pipe_name, self._ends)
        request = ExecProcessRequest(
            id=self._owner.id,
            exec_id=self._name,
            terminal=self._terminal,
            stdin=stdin,
            stdout=stdout,
            stderr="" if self._terminal else stderr,
            spec=Any(type_url=_PROCESS, value=self._process()),
        )
        self._owner.commands.add(self)
        told = self._added, self._refused
        self._owner.shim.call("Exec", request, Empty, told, patience=_PATIENCE)
        if isinstance(self._request, Exec) and self._request.timeout > 0:
            self._timer = self._pod.loop.after(self._request.timeout, self._time_out)

    def kill(self) -> None:
        """Before it runs: as soon as it does. Descendants only where they are the node's."""
        self._unwanted = True
        if self._ready:
            super().kill()
            self._task.kill(int(signal.SIGKILL))

    def _time_out(self) -> None:
        """A probe's time limit holds though the shim may hang."""
        super()._time_out()
        late = Executed(_KILLED, timed_out=True)
        self._timer = self._pod.loop.after(_GRACE, lambda: self._over(late))

    def resize(self, width: int, height: int) -> None:
        self._task.resize(width, height)

    def end_input(self) -> None:
        """The client has closed its end. A terminal's input has none."""
        if not self._terminal:
            self._input_ended = True
            if self._ready:
                self._task.end_input()

    def lose_container(self) -> None:
        """The container has ended, and the command with it: whoever knows how is not asked."""
        self._over(Executed(_KILLED, self._timed_out) if self._ready else None)

    def _make_pipes(self, stdio: list[int]) -> None:
        """Whatever the client doesn't want goes where it gets lost; no input is one that has
        ended, lest the command be given the node's /dev/null."""
        if self._terminal:
            stdin, write_end = os.pipe2(os.O_CLOEXEC)
            read_end, stdout = os.pipe2(os.O_CLOEXEC)
            self._ends, self._ours = [stdin, stdout, -1], [write_end, read_end]
            self._input_ended = False
            return
        stdin = stdio[0]
        if stdin >= 0:
            self._input_ended = not isinstance(self._request, ExecStream)
            stdin = os.dup(stdin)
        else:
            stdin, write_end = os.pipe2(os.O_CLOEXEC)
            os.close(write_end)
        self._ends = [stdin, *(os.dup(fd) if fd >= 0 else -1 for fd in stdio[1:])]
        for number in (1, 2):
            if self._ends[number] < 0:
                self._ends[number] = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def _process(self) -> bytes:
        """The command as process.json."""
        owner = self._owner
        assert owner.who is not None  # it runs, so we were told
        config = owner.load_shim().document()
        process = documents.command_process(config, self._request.args, terminal=self._terminal)
        documents.become(process, owner.who)
        held = warm_up().held
        documents.limit(process, capabilities.names(held.permitted & held.bounding))
        return json.dumps(process).encode()

    def _added(self, _answer: Empty) -> None:
        self._known = True
        if self._ended:
            self._task.delete()
            return
        self._waiting = self._task.wait((self._exited, self._lost))
        self._task.start((self._started, self._refused), patience=_PATIENCE)

    def _started(self, answer: PidResponse) -> None:
        if self._ended:  # too late for who asked
            self._task.kill(int(signal.SIGKILL))
            return
        self._ready = True
        self._find(answer.pid)
        self._close_outputs()
        if self._input_ended:
            self._task.end_input()
        if self.begun is not None:
            self.begun({}, self._ours)
        fds.close_all(self._ours)
        self._ours.clear()
        if self._unwanted:
            self.kill()
        if self._code is not None:
            self._over(Executed(self._code, self._timed_out))

    def _find(self, pid: int) -> None:
        """The process, if it is one of the container's here: a machine's shim tells the machine's.

        Looked for twice, since a pid may have become somebody else's until it is held.
        """
        cgroup = self._owner.cgroup
        with contextlib.suppress(OSError, RuntimeFault):
            if pid in cgroup.pids():
                self._pid, self._pidfd = pid, os.pidfd_open(pid)
                if pid not in cgroup.pids():
                    fds.close_all((self._pidfd,))
                    self._pidfd = -1

    def _exited(self, answer: WaitResponse) -> None:
        """If it is being started, its start is told before."""
        if self._ended:
            self._task.delete()
            return
        self._code = answer.exit_status
        if self._ready:
            self._over(Executed(self._code, self._timed_out))

    def _lost(self, error: RuntimeFault) -> None:
        """Wait has failed; that the shim is gone the container hears."""
        if isinstance(error, CallFailed):
            self._over(self._owner.shim.fault("exec", error))

    def _refused(self, error: RuntimeFault) -> None:
        if self._waiting:
            self._owner.shim.forget(self._waiting)
            self._waiting = 0
        if self._ended and self._known:
            self._task.delete()
        running = self._owner.state is State.RUNNING
        self._over(self._owner.shim.fault("exec", error) if running else None)

    def _over(self, answer: object) -> None:
        """The end of it. answer: None, the container has none. Idempotent."""
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._close_ends()
        fds.close_all((*self._ours, self._pidfd))
        self._ours, self._pidfd = [], -1
        self._owner.commands.discard(self)
        if self._known and (self._code is not None or not self._waiting):
            self._task.delete()
        self._answer(answer or ContainerNotFound(self._owner.id))

    def _close_outputs(self) -> None:
        """The input stays until the end: the shim may open it only after it has answered."""
        fds.close_all(self._ends[1:])
        del self._ends[1:]

    def _close_ends(self) -> None:
        fds.close_all(self._ends)
        self._ends.clear()


def pipe_name(fd: int) -> str:
    """A name by which the shim can open one of our pipes; "": for none."""
    return f"/proc/{os.getpid()}/fd/{fd}" if fd >= 0 else ""
