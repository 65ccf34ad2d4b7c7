"""The one table: exception class -> gRPC status.

Handlers raise; the guard in guard.py asks `status_of`. The nearest class in the MRO wins; what is
not listed is INTERNAL, a fault of ours, and is logged with its traceback. A message may carry a
prefix which kubelet looks for in errors with code UNKNOWN. UNAVAILABLE is never used: to a client
it means that nobody is listening at the socket.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc import StatusCode

import image.errors as image
import network.errors as network
import runtime.cgroup.errors as cgroup
import runtime.errors as runtime
import runtime.selinux.relabel as selinux

if TYPE_CHECKING:
    from collections.abc import Mapping


class CriFault(Exception):
    """Root of the failures that the CRI layer itself finds."""


class SandboxNotFound(CriFault):
    """No sandbox has this id, or an id that begins so."""

    def __init__(self, sandbox_id: str) -> None:
        super().__init__(f"no sandbox with id {sandbox_id!r}")
        self.sandbox_id = sandbox_id


class ContainerNotFound(CriFault):
    """No container has this id, or an id that begins so."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"no container with id {container_id!r}")
        self.container_id = container_id


class AmbiguousId(CriFault):
    """The beginning of more than one id."""

    def __init__(self, text: str, count: int) -> None:
        super().__init__(f"{text!r} is the beginning of {count} ids: give more digits")


class InvalidRequest(CriFault):
    """A field of the request can't be as it is. `field` is its path in the request."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field


class WrongState(CriFault):
    """The sandbox or container is in a state in which this can't be done."""


class NameTaken(CriFault):
    """A sandbox or container of this name and attempt is there, and it isn't the same."""


class LimitReached(CriFault):
    """One of our own bounds; the text says which, and what to do."""


class PathHangs(CriFault):
    """A file system does not answer."""


class NotImplementedYet(CriFault):
    """Something which CRI knows and this version of podwright doesn't."""


class ImageVolumeFailed(CriFault):
    """An image can't be mounted as a volume."""


class StreamsExhausted(CriFault):
    """Too many streams were asked for that nobody has opened."""


class PluginRefused(CriFault):
    """An NRI plugin has answered with an error, or can't be asked: its request is not done."""

    def __init__(self, plugin: str, method: str, text: str) -> None:
        super().__init__(f"NRI plugin {plugin} refuses {method}: {text}")


class PluginsDisagree(CriFault):
    """Two NRI plugins want the same thing to be different."""

    def __init__(self, field: str, first: str, second: str) -> None:
        super().__init__(f"NRI plugins {first} and {second} both tried to set {field}")


class AdjustmentRefused(CriFault):
    """What NRI plugins want, or that one is missing, is against the node's configuration."""


class AdjustmentImpossible(CriFault):
    """What an NRI plugin wants can't be had here."""

    def __init__(self, plugin: str, field: str, text: str) -> None:
        super().__init__(f"NRI plugin {plugin}: {field}: {text}")


class StateNotWritten(CriFault):
    """A change of state could not be written down, so it was not made."""


class StateDiskFull(StateNotWritten):
    """The file system of the state database is full."""


@dataclass(frozen=True, slots=True)
class Status:
    """A gRPC status; `prefix` goes before the message, for clients that look for it."""

    code: StatusCode
    prefix: str = ""


STATUS: Mapping[type[BaseException], Status] = {
    SandboxNotFound: Status(StatusCode.NOT_FOUND),
    ContainerNotFound: Status(StatusCode.NOT_FOUND),
    AmbiguousId: Status(StatusCode.INVALID_ARGUMENT),
    InvalidRequest: Status(StatusCode.INVALID_ARGUMENT),
    WrongState: Status(StatusCode.FAILED_PRECONDITION),
    NameTaken: Status(StatusCode.ALREADY_EXISTS),
    LimitReached: Status(StatusCode.RESOURCE_EXHAUSTED),
    PathHangs: Status(StatusCode.DEADLINE_EXCEEDED),
    NotImplementedYet: Status(StatusCode.UNIMPLEMENTED),
    ImageVolumeFailed: Status(StatusCode.UNKNOWN, "ImageVolumeMountFailed"),
    StreamsExhausted: Status(StatusCode.RESOURCE_EXHAUSTED),
    PluginRefused: Status(StatusCode.FAILED_PRECONDITION),
    PluginsDisagree: Status(StatusCode.FAILED_PRECONDITION),
    AdjustmentRefused: Status(StatusCode.FAILED_PRECONDITION),
    AdjustmentImpossible: Status(StatusCode.UNIMPLEMENTED),
    StateNotWritten: Status(StatusCode.ABORTED),
    StateDiskFull: Status(StatusCode.RESOURCE_EXHAUSTED),
    TimeoutError: Status(StatusCode.DEADLINE_EXCEEDED),
    runtime.SandboxNotFound: Status(StatusCode.NOT_FOUND),
    runtime.ContainerNotFound: Status(StatusCode.NOT_FOUND),
    runtime.IllegalTransition: Status(StatusCode.FAILED_PRECONDITION),
    runtime.InvalidSpec: Status(StatusCode.INVALID_ARGUMENT),
    runtime.InitFailed: Status(StatusCode.FAILED_PRECONDITION),
    cgroup.CgroupRefused: Status(StatusCode.FAILED_PRECONDITION),
    cgroup.MemoryInUse: Status(StatusCode.FAILED_PRECONDITION),
    cgroup.CgroupBusy: Status(StatusCode.ABORTED),
    cgroup.SystemdRefused: Status(StatusCode.FAILED_PRECONDITION),
    cgroup.SystemdSilent: Status(StatusCode.FAILED_PRECONDITION),
    cgroup.SystemdUnavailable: Status(StatusCode.FAILED_PRECONDITION),
    runtime.CheckpointFailed: Status(StatusCode.FAILED_PRECONDITION),
    runtime.CriuUnavailable: Status(StatusCode.UNIMPLEMENTED),
    runtime.ExecTimedOut: Status(StatusCode.DEADLINE_EXCEEDED),
    selinux.OutOfTime: Status(StatusCode.DEADLINE_EXCEEDED),
    runtime.AttachmentTooSlow: Status(StatusCode.ABORTED),
    runtime.MonitorLost: Status(StatusCode.ABORTED),
    runtime.SpawnerUnavailable: Status(StatusCode.ABORTED),
    image.ImageNotFound: Status(StatusCode.NOT_FOUND),
    image.ReferenceMalformed: Status(StatusCode.INVALID_ARGUMENT),
    image.RegistryUnavailable: Status(StatusCode.UNKNOWN, "RegistryUnavailable"),
    image.RegistryBusy: Status(StatusCode.UNKNOWN, "RegistryUnavailable"),
    image.RegistryDenied: Status(StatusCode.PERMISSION_DENIED),
    image.ManifestUnknown: Status(StatusCode.NOT_FOUND),
    image.DigestMismatch: Status(StatusCode.DATA_LOSS),
    image.UnsupportedImage: Status(StatusCode.FAILED_PRECONDITION),
    image.LayerMalformed: Status(StatusCode.FAILED_PRECONDITION),
    image.CheckpointRefused: Status(StatusCode.FAILED_PRECONDITION),
    image.AlreadyThere: Status(StatusCode.ALREADY_EXISTS),
    image.ArchiveMalformed: Status(StatusCode.INVALID_ARGUMENT),
    image.StorageFull: Status(StatusCode.RESOURCE_EXHAUSTED),
    image.PullCancelled: Status(StatusCode.ABORTED),
    image.WorkerLost: Status(StatusCode.ABORTED),
    network.NetworkNotReady: Status(StatusCode.FAILED_PRECONDITION),
    network.InvalidAttachment: Status(StatusCode.INVALID_ARGUMENT),
    network.AddressesExhausted: Status(StatusCode.RESOURCE_EXHAUSTED),
    network.HostPortTaken: Status(StatusCode.ALREADY_EXISTS),
    network.KernelRefused: Status(StatusCode.ABORTED),
}

INTERNAL = Status(StatusCode.INTERNAL)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def status_of(error: BaseException) -> Status:
    """The status that a client gets to see for an error."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return Status(StatusCode.RESOURCE_EXHAUSTED)
    return next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), INTERNAL)


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str) else ""
        why = os.strerror(error.errno)
        return f"{where}{why}: free some bytes and inodes where `root` and `state` are"
    return str(error) or type(error).__name__


def message_of(error: BaseException, status: Status) -> str:
    """What a client gets to read: the prefix it may look for, the text, and what was not undone."""
    text = _text(error)
    if status.prefix and not text.startswith(status.prefix):
        text = f"{status.prefix}: {text}"
    return "; ".join([text, *getattr(error, "__notes__", ())])
