"""What another process has open. See pidfd_getfd(2)."""

from __future__ import annotations

from runtime.linux.libc import Integer, Unsigned, syscall

_pidfd_getfd = syscall("pidfd_getfd", 438, Integer, Integer, Unsigned)


def getfd(pidfd: int, fd: int) -> int:
    """A copy of its descriptor, close-on-exec, the caller's. Takes the right to trace it."""
    return _pidfd_getfd(pidfd, fd, 0)
