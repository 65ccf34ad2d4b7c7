"""Waits for every child: containers, execs, and the orphans that a subreaper inherits."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from runtime.monitor.loop import Loop

OnExit = Callable[[int], None]


class Reaper:
    """Turns SIGCHLD into calls. Exit codes are as the shell has them: 128 + N after signal N."""

    def __init__(self, loop: Loop) -> None:
        self._waiting: dict[int, OnExit] = {}
        self._wake, wake_write = socket.socketpair()
        self._wake.setblocking(False)  # noqa: FBT003 - the standard library's signature
        wake_write.setblocking(False)  # noqa: FBT003
        self._wake_write = wake_write
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        loop.watch(self._wake.fileno(), self._collect)

    def expect(self, pid: int, on_exit: OnExit) -> None:
        """Calls on_exit(code) when `pid`, our child, has ended; never from within this call."""
        self._waiting[pid] = on_exit

    def _collect(self) -> None:
        self._wake.recv(4096)
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


def exit_code(status: int) -> int:
    """A wait status as a shell would put it."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
