"""A container's log file: append, reopen, count what could not be written."""

from __future__ import annotations

import errno
import os
import stat

from runtime.errors import InitFailed

MODE = 0o640
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW
FLAGS |= os.O_NONBLOCK  # a FIFO that somebody put there must not hold up the pod


class LogFile:
    """An append-only file at a path that kubelet owns; kubelet renames it and asks us to reopen.

    A write that fails (a full disk) loses that record and is counted: the container is never held
    up, and the count is told with the container's exit.
    """

    def __init__(self) -> None:
        self.path = ""
        self.lost_bytes = 0
        self.error = ""
        self._fd = -1

    def open(self, path: str) -> None:
        """path: absolute; its directory exists. Raises OSError if it can't be opened."""
        self._fd = _open(path)
        self.path = path

    def append(self, records: bytes) -> None:
        """records: whole lines. One of which only a part found room is cut off again, so that what
        is written once there is room begins a line."""
        view = memoryview(records)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError as error:
                written = len(records) - len(view)
                torn = written - records.rfind(b"\n", 0, written) - 1
                if torn:
                    os.ftruncate(self._fd, max(0, os.fstat(self._fd).st_size - torn))
                self.lost_bytes += len(view) + torn
                self.error = os.strerror(error.errno or 0)
                return

    def reopen(self) -> None:
        """Opens the path anew (kubelet has renamed the old file). OSError: the old one stays."""
        fd = _open(self.path)
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


def _open(path: str) -> int:
    """Whoever can write to the directory (a log collector, say) may have put anything there."""
    fd = os.open(path, FLAGS, MODE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return fd


def refused(path: str, error: OSError) -> InitFailed:
    """What a container's start fails with, or a request to reopen its log."""
    return InitFailed("log", error.errno or 0, f'the log file "{path}" can\'t be opened')
