"""One container in its monitor: from the request to start it to its written-down exit."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime.cgroup.limits import limits
from runtime.codec import encode
from runtime.errors import ContainerNotFound, IllegalTransition
from runtime.init import launch
from runtime.init.channel import Conversation
from runtime.monitor.logfile import LogFile
from runtime.monitor.messages import (
    ContainerExit,
    Identity,
    RunningContainer,
    Stage,
    Start,
    Started,
)
from runtime.monitor.stdio import OutputStream

if TYPE_CHECKING:
    from runtime.monitor.pod import Pod

Answer = Callable[[object], None]


class State(enum.Enum):
    """STARTING -> RUNNING -> EXITED; a start that fails leaves no container."""

    STARTING = "starting"
    RUNNING = "running"
    EXITED = "exited"


class Container:
    """A container of `pod`. Everything it holds is released when it has ended."""

    def __init__(self, pod: Pod, request: Start) -> None:
        self.request = request
        self.state = State.STARTING
        self.exit: ContainerExit | None = None
        self.identity = Identity()
        self.cgroup = pod.hierarchy.cgroup(request.cgroup_path)
        self._pod = pod
        self._log: LogFile | None = None
        self._streams: list[OutputStream] = []
        self._stdin_fd = -1
        self._started_at = 0
        self._child: launch.Child | None = None
        self._when_ended: list[Callable[[], None]] = []

    @property
    def id(self) -> str:
        return self.request.container_id

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    @property
    def pidfd(self) -> int:
        return self._child.pidfd if self._child is not None else -1

    @property
    def running(self) -> RunningContainer:
        return RunningContainer(self.id, self.pid, self._started_at, self.identity)
