"""Waits for every child: containers, execs, and the orphans that a subreaper inherits."""

from __future__ import annotations

import os
from collections.abc import Callable

from runtime.linux.process import signal_fd
from runtime.monitor.loop import Loop

SIGCHLD = 17
OnExit = Callable[[int], None]


class Reaper:
    """Turns SIGCHLD into calls. Exit codes are as the shell has them: 128 + N after signal N."""

    def __init__(self, loop: Loop) -> None:
        self._waiting: dict[int, OnExit] = {}
        self._held = 0
        self._strangers: dict[int, int] = {}
        self._loop = loop
        self._signal_fd = signal_fd(SIGCHLD)
        loop.watch(self._signal_fd, self._collect)

    def close(self) -> None:
        os.close(self._signal_fd)

    def expect(self, pid: int, on_exit: OnExit) -> None:
        """Calls on_exit(code) when `pid`, our child, has ended; never from within this call."""
        self._waiting[pid] = on_exit

    def hold(self) -> None:
        """From now on, until `release`, the exits of unknown children are kept: one of them may be
        somebody whose pid we are about to be told."""
        self._held += 1

    def claim(self, pid: int, on_exit: OnExit) -> bool:
        """As `expect`, of a child that may have ended since `hold`: then False. Raises
        ChildProcessError for what is no child of ours, or somebody else's already."""
        code = self._strangers.pop(pid, None)
        if code is not None:
            ended = code
            self._loop.after(0, lambda: on_exit(ended))
            return False
        if pid in self._waiting:
            raise ChildProcessError(pid)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        self.expect(pid, on_exit)
        return True

    def release(self) -> None:
        """The end of one `hold`."""
        self._held -= 1
        if not self._held:
            self._strangers.clear()

    def _collect(self) -> None:
        os.read(self._signal_fd, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            on_exit = self._waiting.pop(pid, None)  # unknown: an orphan of a container, adopted
            if on_exit is not None:
                on_exit(exit_code(status))
            elif self._held:
                self._strangers[pid] = exit_code(status)


def exit_code(status: int) -> int:
    """A wait status as a shell would put it."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
