"""One run of a program of the node: a child of the monitor, with a deadline. An OCI runtime's
binary, or a hook; loaded by monitors that need it.

child:  body(peer)  prepares, tells what it made, ends in `execute`
peer:   {"type": …} with descriptors, any number  │ {"type": "failed", …}  │ the end: execve
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from runtime.errors import InitFailed
from runtime.init.channel import EXIT_FAILED, Reporter, resume
from runtime.init.launch import warm_up
from runtime.linux import fds
from runtime.linux.fds import Message, Socket
from runtime.linux.namespace import Clone, setns
from runtime.linux.process import Prctl, clone3, close_from, prctl, reset_signals

if TYPE_CHECKING:
    from runtime.monitor.loop import Timer
    from runtime.monitor.pod import Pod

OnEnd = Callable[[int, InitFailed | None], None]
OnWord = Callable[[Message, list[int]], None]
_SIGKILL = 9
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # of every run


class Program:
    """What `body` executes. on_end: told its exit code and what was wrong before or beside it;
    on_word: told what the body says, and owns the descriptors."""

    def __init__(self, pod: Pod, step: str, on_end: OnEnd, on_word: OnWord | None = None) -> None:
        """step: what this run is called in an InitFailed: "runc create"."""
        self.step = step
        self._pod = pod
        self._on_end = on_end
        self._on_word = on_word
        self._channel: Socket | None = None
        self._timer: Timer | None = None
        self.pid = 0
        self._failure: InitFailed | None = None

    @property
    def running(self) -> bool:
        return self.pid > 0

    def start(
        self,
        body: Callable[[Socket], None],
        *,
        patience: float,
        cgroup_fd: int = -1,
        pid_ns_fd: int = -1,
    ) -> None:
        """Forks. patience: seconds, then it is killed; pid_ns_fd: it is born in there. OSError."""
        ours, theirs = fds.pair()
        if pid_ns_fd >= 0:
            setns(pid_ns_fd, Clone.NEWPID)
        try:
            pid, pidfd = clone3(0, cgroup_fd=cgroup_fd)
            if pid == 0:
                ours.close()
                _become(theirs, self.step, body)
        except BaseException:
            ours.close()
            raise
        finally:
            if pid_ns_fd >= 0:
                setns(warm_up().pid_ns_fd, Clone.NEWPID)
            theirs.close()
        os.close(pidfd)  # nobody else reaps it, so its pid is its own until we do
        self.pid, self._channel = pid, ours
        self._pod.reaper.expect(pid, self._end)
        self._pod.loop.watch(ours.fileno(), self._hear)
        self._timer = self._pod.loop.after(patience, lambda: self._time_out(patience))

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, _SIGKILL)

    def resume(self) -> None:
        """The body waits for it (`Reporter.pause`)."""
        if self._channel is not None:
            with contextlib.suppress(OSError):  # it was killed: its end is about to be told
                resume(self._channel)

    def _time_out(self, patience: float) -> None:
        self._failure = InitFailed(self.step, 0, f"killed: it had not ended after {patience:g} s")
        self.kill()

    def _hear(self) -> None:
        assert self._channel is not None
        try:
            received = fds.receive(self._channel)
        except (OSError, ValueError) as error:
            self._failure = InitFailed(self.step, 0, str(error))
            received = None
        if received is None:
            self._close()
            return
        message, descriptors = received
        if message["type"] == "failed":
            fds.close_all(descriptors)
            step, number, text = cast(list[object], message["failure"])
            self._failure = InitFailed(str(step), cast(int, number), str(text))
        elif self._on_word is not None:
            self._on_word(message, descriptors)

    def _end(self, code: int) -> None:
        while self._channel is not None:
            self._hear()
        self.pid = 0
        if self._timer is not None:
            self._timer.cancel()
        self._on_end(code, self._failure)

    def _close(self) -> None:
        if self._channel is not None:
            self._pod.loop.unwatch(self._channel.fileno())
            self._channel.close()
            self._channel = None


def execute(
    command: Sequence[str],
    *,
    path: str = "",
    stdio: Sequence[int] = (-1, -1, -1),
    environment: Mapping[str, str] | None = None,
    directory: str = "/",
    keep: Sequence[int] = (),
) -> None:
    """Becomes the binary. Only in a child; raises OSError.

    path: of the program, if it is not the first word; stdio: -1 as stdin: nothing to read; as
    output: where the monitor's own goes, for people; environment: beside PATH; directory: to start
    in; keep: what it is to find as 3, 4, ….
    """
    os.chdir(directory)
    stdin, stdout, stderr = stdio
    if stdin < 0:
        stdin, write_end = os.pipe2(os.O_CLOEXEC)
        os.close(write_end)
    os.dup2(stdin, 0)
    if stderr >= 0:
        os.dup2(stderr, 2)
    os.dup2(stdout if stdout >= 0 else 2, 1)
    close_from(3, cloexec=True)
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(keep)) for fd in keep]
    for number, fd in enumerate(kept, 3):
        os.dup2(fd, number)
    try:
        env = {"PATH": PATH, **(environment or {})}
        os.execve(path or command[0], list(command), env)  # noqa: S606 - a list, no shell
    except OSError as error:
        text = f"the binary {path or command[0]!r} can't be run; is it installed?"
        raise OSError(error.errno, text) from None


def _become(peer: Socket, step: str, body: Callable[[Socket], None]) -> None:
    """The child: never returns."""
    try:
        reset_signals(warm_up().ignored)
        prctl(Prctl.SET_PDEATHSIG, _SIGKILL)
        os.setsid()
        os.umask(0o022)
        body(peer)
    except BaseException as error:  # noqa: BLE001 - it must not unwind into the monitor
        Reporter(peer).failed(step, error)
    os._exit(EXIT_FAILED)
