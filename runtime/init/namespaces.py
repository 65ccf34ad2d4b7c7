"""Joining a running container."""

from __future__ import annotations

import errno

from runtime.init import credentials
from runtime.init.context import Context
from runtime.linux.namespace import Clone, setns

# The pid namespace is joined by the monitor, before the fork: it counts for children only.
_CONTAINERS = Clone.NEWNS | Clone.NEWCGROUP | Clone.NEWIPC | Clone.NEWUTS | Clone.NEWNET


def join(context: Context) -> None:
    """All namespaces at once, of the process that a pidfd names: no pid is reused under us."""
    if context.target is None:
        raise OSError(errno.EINVAL, "no container to join")
    try:
        setns(context.target.pidfd, _CONTAINERS)
    except ProcessLookupError:
        raise OSError(errno.ESRCH, "the container has exited") from None
    credentials.make_files_theirs(context)
