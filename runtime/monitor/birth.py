"""A process that comes into its pid namespace last of all: see `runtime.init.namespaces.be_born`.

Who prepares it is our child, and so is the process itself, whose pid comes by the channel: perhaps
after the end of both.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from runtime.monitor.reaper import OnExit, Reaper


class Birth:
    """From the fork of who prepares the process to the process's pid.

    hear: takes in what the channel has next, and answers False at its end; on_exit: told of the
    process's end, or of the other's if nobody was born.
    """

    def __init__(self, reaper: Reaper, pid: int, hear: Callable[[], bool], on_exit: OnExit) -> None:
        self._reaper = reaper
        self._hear = hear
        self._on_exit = on_exit
        self.over = False
        reaper.hold()
        reaper.expect(pid, self._prepared)

    def of(self, pid: int) -> int:
        """The process is this one; its pidfd, -1: it has ended. Raises ChildProcessError."""
        pidfd = os.pidfd_open(pid) if self._reaper.claim(pid, self._on_exit) else -1
        self._end()
        return pidfd

    def _prepared(self, code: int) -> None:
        while not self.over and self._hear():
            pass
        if not self.over:
            self._end()
            self._on_exit(code)

    def _end(self) -> None:
        self.over = True
        self._reaper.release()
