"""What a shim is asked of one process: a container's first, or a command in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from runtime.errors import RuntimeFault
from runtime.monitor.shim.link import nobody
from runtime.monitor.shim.task_pb2 import (
    CloseIORequest,
    Empty,
    KillRequest,
    PidResponse,
    ProcessRequest,
    ResizePtyRequest,
    WaitResponse,
)

CREATE_PATIENCE = 100.0  # seconds: a machine has to boot, or a bind source to be mounted
PATIENCE = 10.0  # for what takes a moment

T = TypeVar("T", bound=Message)
OnFailure = Callable[[RuntimeFault], None]
Told = tuple[Callable[[T], None], OnFailure]
_NOBODY: Told[Empty] = (nobody, nobody)


class Calls(Protocol):
    """Who carries a call to the shim: see `Link.call`."""

    def call(
        self, method: str, request: Message, answer: type[T], told: Told[T], *, patience: float
    ) -> int: ...


class Task:
    """A process of the shim's, by the container's id and, of a command, its own."""

    def __init__(self, calls: Calls, container_id: str, exec_id: str = "") -> None:
        self._calls = calls
        self._ids = {"id": container_id, "exec_id": exec_id}

    def start(self, told: Told[PidResponse], *, patience: float = CREATE_PATIENCE) -> None:
        request = ProcessRequest(**self._ids)
        self._calls.call("Start", request, PidResponse, told, patience=patience)

    def wait(self, told: Told[WaitResponse], *, patience: float = 0.0) -> int:
        """The number of the call, which ends with the process."""
        request = ProcessRequest(**self._ids)
        return self._calls.call("Wait", request, WaitResponse, told, patience=patience)

    def kill(
        self,
        number: int,
        failed: OnFailure = nobody,
        *,
        everyone: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        """everyone: all of the container's processes."""
        request = KillRequest(**self._ids, signal=number, all=everyone)
        self._calls.call("Kill", request, Empty, (nobody, failed), patience=patience)

    def delete(self, told: Told[Empty] = _NOBODY, *, patience: float = PATIENCE) -> None:
        request = ProcessRequest(**self._ids)
        self._calls.call("Delete", request, Empty, told, patience=patience)

    def resize(self, width: int, height: int, failed: OnFailure = nobody) -> None:
        request = ResizePtyRequest(**self._ids, width=width, height=height)
        self._calls.call("ResizePty", request, Empty, (nobody, failed), patience=PATIENCE)

    def end_input(self, failed: OnFailure = nobody) -> None:
        request = CloseIORequest(**self._ids, stdin=True)
        self._calls.call("CloseIO", request, Empty, (nobody, failed), patience=PATIENCE)
