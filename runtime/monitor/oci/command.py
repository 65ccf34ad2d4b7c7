"""A command in a container of a binary: `exec --detach`, whose process is then ours to wait for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime.errors import InitFailed
from runtime.linux.fds import Message, Socket
from runtime.monitor.command import Command
from runtime.monitor.messages import Exec, ExecStream
from runtime.monitor.oci import bundle
from runtime.monitor.program import Program

if TYPE_CHECKING:
    from runtime.monitor.oci.container import OciContainer
    from runtime.monitor.pod import Pod
    from runtime.monitor.reaper import Reaper

_PATIENCE = 60.0  # seconds for the binary to start the command
_GRACE = 1.0  # beyond the command's own time limit, in which a slow binary may still tell its pid


class OciCommand(Command):
    """The process is not a subreaper: what it leaves goes to the container's first process."""

    def __init__(self, container: OciContainer, request: Exec | ExecStream, pod: Pod) -> None:
        super().__init__(container, request, pod)
        self._owner = container
        self._name = container.next_name()
        self._program: Program | None = None
        self._listener_fd = -1

    def start(self, stdio: list[int], answer: Callable[[object], None]) -> None:
        self._answer = answer
        owner, pod = self._owner, self._pod
        who = owner.who
        assert who is not None  # it runs, so we were told
        inside = bundle.Inside(owner.id, owner.namespace_fd, owner.bundle_fd, who)
        terminal = isinstance(self._request, ExecStream) and self._request.terminal
        ends = (stdio[0], stdio[1], stdio[2])
        wanted = bundle.Wanted(self._name, self._request.args, terminal, ends)

        def body(peer: Socket) -> None:
            bundle.run_command(peer, owner.load_oci(), inside, wanted)

        program = Program(pod, owner.step("exec"), self._ran, self._hear_child)
        program.start(body, patience=_PATIENCE)
        pod.reaper.hold()
        self._program = program
        if isinstance(self._request, Exec) and self._request.timeout > 0:
            self._timer = pod.loop.after(self._request.timeout, self._time_out)

    def kill(self) -> None:
        """Before the process is known: as soon as it is."""
        self._unwanted = True
        if self._program is None and self._pidfd >= 0:
            super().kill()

    def _time_out(self) -> None:
        super()._time_out()
        program = self._program
        if program is not None:  # which may hang: a probe's time limit holds all the same
            self._timer = self._pod.loop.after(_GRACE, program.kill)

    def _hear_child(self, _message: Message, descriptors: list[int]) -> None:
        (self._listener_fd,) = descriptors

    def _ran(self, code: int, failure: InitFailed | None) -> None:
        """The binary has ended, the command runs: or it does not."""
        self._program = None
        if self._listener_fd >= 0:
            self._console_fd = bundle.take_console(self._listener_fd)
            self._listener_fd = -1
        owner, reaper = self._owner, self._pod.reaper
        try:
            if (failure or code) and not self._timed_out:
                raise failure or owner.complaint("exec", code, f"{self._name}.log")
            self._pid = bundle.told_pid(owner.bundle_fd, self._name)
            claim(reaper, self._pid, self._on_exit, owner.step("exec"))
        except InitFailed as error:
            self._failure = None if self._timed_out else error
            self._on_exit(code)
        else:
            self._ready = True
            with contextlib.suppress(ProcessLookupError):  # it has ended, and the reaper knows
                self._pidfd = os.pidfd_open(self._pid)
            self._begin()
            if self._unwanted:
                self.kill()
        finally:
            reaper.release()
            if owner.bundle_fd >= 0:
                bundle.forget(owner.bundle_fd, self._name)


def claim(reaper: Reaper, pid: int, on_exit: Callable[[int], None], step: str) -> None:
    """Makes a process ours, whose pid a binary has told. Raises InitFailed.

    What is no child of ours is nobody's business here: it would be killed with the container.
    """
    if not pid:
        raise InitFailed(step, 0, "it succeeded, but told no pid")
    try:
        reaper.claim(pid, on_exit)
    except ChildProcessError:
        raise InitFailed(step, 0, f"it told the pid {pid}, which is no child of its own") from None
