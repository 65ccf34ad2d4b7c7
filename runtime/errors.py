"""Everything that can go wrong in the runtime, as types that carry data, not gRPC codes."""

from __future__ import annotations

import os


class RuntimeFault(Exception):
    """Root of all failures of this package."""


class SandboxNotFound(RuntimeFault):
    """No monitor runs for this sandbox."""

    def __init__(self, sandbox_id: str) -> None:
        super().__init__(f"sandbox {sandbox_id} has no monitor")
        self.sandbox_id = sandbox_id


class ContainerNotFound(RuntimeFault):
    """The sandbox's monitor doesn't know this container."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id} is not known to its monitor")
        self.container_id = container_id


class IllegalTransition(RuntimeFault):
    """The container is in a state in which this can't be done (an exec in a stopped one, say)."""


class InvalidSpec(RuntimeFault):
    """The spec asks for something that can't be: `path` says where in it, `text` what and why."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path
        self.text = text


class InitFailed(RuntimeFault):
    """A step between fork and exec failed.

    step: the step's name, from `runtime.init.steps`; errno: the kernel's answer, 0 where the step
    refused by itself; text: what was tried, and the remedy where one is known.
    """

    def __init__(self, step: str, errno: int, text: str) -> None:
        reason = f": {os.strerror(errno)}" if errno else ""
        super().__init__(f"{step}: {text}{reason}")
        self.step = step
        self.errno = errno
        self.text = text


class CheckpointFailed(RuntimeFault):
    """CRIU could not write a container's processes to disk; they run on."""


class CriuUnavailable(RuntimeFault):
    """There is no CRIU on this node, or none that works with its kernel: the text says why."""


class ExecTimedOut(RuntimeFault):
    """The command ran longer than allowed; it and all its descendants were killed."""


class AttachmentTooSlow(RuntimeFault):
    """Who was attached did not read what the container wrote, and was detached."""


class MonitorLost(RuntimeFault):
    """The monitor of a sandbox died, or stopped answering, in the middle of a request."""


class MonitorSilent(MonitorLost):
    """The monitor has not answered in time, but its connection holds: it may only be slow."""


class SpawnerUnavailable(RuntimeFault):
    """No spawner could be started; the text carries what it printed."""
