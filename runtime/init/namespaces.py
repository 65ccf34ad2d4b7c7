"""Joining a running container."""

from __future__ import annotations

import errno
import os

from runtime.init import credentials
from runtime.init.channel import EXIT_FAILED
from runtime.init.context import Context
from runtime.linux.namespace import Clone, setns
from runtime.linux.process import clone3

_CONTAINERS = Clone.NEWNS | Clone.NEWCGROUP | Clone.NEWIPC | Clone.NEWUTS | Clone.NEWNET


def join(context: Context) -> None:
    """All namespaces at once, of the process that a pidfd names: no pid is reused under us."""
    if context.target is None:
        raise OSError(errno.EINVAL, "no container to join")
    try:
        setns(context.target.pidfd, _CONTAINERS)
    except ProcessLookupError:
        raise OSError(errno.ESRCH, "the container has exited") from None
    if context.surroundings.sheltered:
        try:
            setns(context.surroundings.pid_ns_fd, Clone.NEWPID)  # for whom we fork: `be_born`
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise OSError(errno.ESRCH, "the container has exited") from None
    credentials.make_files_theirs(context)


def be_born(context: Context) -> None:
    """Comes into the container's sight, by a last fork into its pid namespace.

    Whoever is in there may trace us, if it has SYS_PTRACE, or open /proc/PID/root and /proc/PID/fd.
    So only now, as there is nothing of the node left in us, nor a privilege that is not its own.
    """
    if not context.surroundings.sheltered:
        return
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid, _ = _fork()
    if pid:
        context.report.born(pid)
        os.write(tell, b"1")
        os._exit(0)
    os.close(tell)
    if not os.read(told, 1):  # nobody knows of us
        os._exit(EXIT_FAILED)
    os.close(told)
    os.setsid()


def _fork() -> tuple[int, int]:
    try:
        return clone3(Clone.PARENT)
    except OSError as error:
        if error.errno == errno.ENOMEM:  # its pid namespace has no first process any more
            raise OSError(errno.ESRCH, "the container has exited") from None
        raise
