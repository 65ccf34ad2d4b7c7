"""A process that keeps a place: systemd starts no scope without one, and ends it with its last.

It is started by the daemon, sits in the scope until the container's first process was born there,
and leaves. It ends by itself with the daemon, whose end of a pipe it reads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal

from runtime.cgroup.errors import CgroupsUnusable

_WHERE = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin"


class Seat:
    """Taken when made, free after `leave`."""

    def __init__(self) -> None:
        program = shutil.which("cat", path=_WHERE)
        if program is None:
            raise CgroupsUnusable(f"there is no cat in {_WHERE}: the systemd driver needs it")
        theirs, self._held = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = os.posix_spawn(
                program,
                ["podwright-seat"],
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                ],
                setsid=True,
            )
        except BaseException:
            os.close(self._held)
            raise
        finally:
            os.close(theirs)

    def killed(self) -> bool:
        """Whether it has gone before it was told to."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def leave(self) -> None:
        """Ends it, and waits for that. Idempotent."""
        if self._held < 0:
            return
        os.close(self._held)
        self._held = -1
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # not yet waited for: the pid is still its own
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
