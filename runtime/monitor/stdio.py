"""A container's output: pipes or a terminal on one side, its log file on the other."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from runtime.monitor.logfile import LogFile
from runtime.monitor.logline import LineCutter
from runtime.monitor.loop import Loop

if TYPE_CHECKING:
    from runtime.monitor.attachment import Tap

READ_BYTES = 256 * 1024
PIPE_BYTES = 1024 * 1024  # /proc/sys/fs/pipe-max-size, what root may ask for
_DEFAULT_PIPE_BYTES = 64 * 1024
_LAST_READS = 64  # 16 MiB: more than any pipe holds


class OutputStream:
    """Drains one descriptor into the log, whole lines at a time. Without a log: into nothing.

    taps: who else gets the bytes, as they come.
    """

    taps: tuple[Tap, ...] = ()

    def __init__(self, loop: Loop, stream: str) -> None:
        """stream: "stdout" or "stderr"."""
        self._loop = loop
        self._fd = -1
        self._log: LogFile | None = None
        self._cutter = LineCutter(stream)
        self._grown = False
        self._hung_up = False  # a terminal: nobody has its other side open at the moment

    def begin(self, fd: int, log: LogFile | None) -> None:
        """fd: a pipe's read end or a terminal's master; owned from here on."""
        self._fd = fd
        self._log = log
        os.set_blocking(fd, False)
        self._loop.watch(fd, self.read)

    @property
    def open(self) -> bool:
        return self._fd >= 0

    @property
    def fd(self) -> int:
        """Ours; -1 after the end."""
        return self._fd

    def read(self) -> None:
        """One read's worth: other streams of the pod get their turn."""
        self._read_once()

    def finish(self) -> None:
        """Everything that is still in the pipe, then the last, unfinished line."""
        for _ in range(_LAST_READS):  # bounded: somebody else may hold the pipe and go on writing
            if not self.open or not self._read_once():
                break
        self.close()

    def close(self) -> None:
        if not self.open:
            return
        if self._log is not None:
            self._log.append(self._cutter.finish(time.time_ns()))
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1
        for tap in self.taps:
            tap.close()

    def _read_once(self) -> bool:
        """False: nothing is there now, or ever again. A pipe's end is the stream's."""
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the terminal's other side open
            self._expect(hung_up=True)
            return False
        self._expect(hung_up=False)
        if not data:
            self.close()
            return False
        if self._log is not None:
            self._log.append(self._cutter.feed(data, time.time_ns()))
        for tap in self.taps:
            tap.take(data)
        if len(data) >= _DEFAULT_PIPE_BYTES and not self._grown:
            self._grow()
        return True

    def _expect(self, *, hung_up: bool) -> None:
        """A terminal may be opened again as long as the container lives (an init system does, for
        each of its lines); if we closed it, its processes would get SIGHUP."""
        if hung_up is not self._hung_up:
            self._hung_up = hung_up
            self._loop.watch_changes(self._fd, only=hung_up)

    def _grow(self) -> None:
        """A writer that fills the pipe gets a larger one: fewer wake-ups a megabyte."""
        self._grown = True
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            return  # a terminal, or the user's limit on pipe buffers: it works as it is
