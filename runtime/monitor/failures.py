"""Exceptions as messages: a monitor's failure arrives in the daemon as what it was."""

from __future__ import annotations

import errno
import os

from runtime import errors
from runtime.cgroup.errors import CgroupRefused
from runtime.errors import InitFailed, RuntimeFault
from runtime.monitor.messages import Failure


def exception_of(failure: Failure) -> RuntimeFault | OSError:
    """The exception that a Failure names, with its data."""
    if failure.kind == "InitFailed":
        return InitFailed(failure.step, failure.errno, failure.text)
    if failure.kind == "OSError":
        return OSError(failure.errno, failure.text)
    if failure.kind == "ContainerNotFound":
        return errors.ContainerNotFound(failure.text)
    kind = getattr(errors, failure.kind, RuntimeFault)
    known = isinstance(kind, type) and issubclass(kind, RuntimeFault)
    return kind(failure.text) if known else RuntimeFault(failure.text)


def failure_of(error: BaseException) -> Failure:
    """The other way round, in the monitor."""
    if isinstance(error, InitFailed):
        return Failure("InitFailed", error.text, error.step, error.errno)
    if isinstance(error, errors.ContainerNotFound):
        return Failure("ContainerNotFound", error.container_id)
    if isinstance(error, CgroupRefused):
        return Failure("InitFailed", str(error), "cgroup")
    if isinstance(error, OSError):
        number = error.errno or errno.EIO
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str) else ""
        return Failure("OSError", f"{where}{error.strerror or os.strerror(number)}", errno=number)
    return Failure(type(error).__name__, str(error))
