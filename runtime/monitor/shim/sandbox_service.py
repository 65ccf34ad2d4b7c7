"""A pod's sandbox by containerd's sandbox service: the shim makes it, and tells its end.

CreateSandbox ─▶ StartSandbox ─▶ WaitSandbox, which is left pending
                 ─▶ Platform ─▶ SandboxStatus ─▶ ready for containers
before each container ─▶ PingSandbox
WaitSandbox is answered ─▶ the pod is not ready any more, and ends
the pod's end, or a start that fails ─▶ StopSandbox ─▶ ShutdownSandbox

Source: containerd, api/runtime/sandbox/v1/sandbox.proto.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from runtime.errors import RuntimeFault
from runtime.monitor.shim.link import TookTooLong
from runtime.monitor.shim.plan import POD_CONFIG, bundle
from runtime.monitor.shim.sandbox_pb2 import (
    CreateSandboxRequest,
    PlatformResponse,
    SandboxRequest,
    SandboxStatusRequest,
    SandboxStatusResponse,
    StartSandboxResponse,
    StopSandboxRequest,
    WaitSandboxResponse,
)
from runtime.monitor.shim.task import CREATE_PATIENCE, PATIENCE
from runtime.monitor.shim.task_pb2 import Any, Empty
from runtime.ttrpc.errors import CallFailed, Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.monitor.shim.plan import ShimPlan
    from runtime.monitor.shim.shim import OnReady, Shim

SERVICE = "containerd.runtime.sandbox.v1.Sandbox"
STOP_SECONDS = 5  # for each half of an end; a monitor that takes longer than 15 s is killed
_READY = "SANDBOX_READY"

T = TypeVar("T", bound=Message)


class SandboxService:
    """A sandbox of `shim` (see `PodSandbox`). netns_path: the pod's network, "": the node's."""

    alone = True

    def __init__(self, shim: Shim, sandbox_id: str, netns_path: str) -> None:
        self._shim = shim
        self._netns_path = netns_path
        self._request = SandboxRequest(sandbox_id=sandbox_id)
        self._up = False  # before, its end is a failure to start
        self._ended = ""  # how

    def start(self, plan: ShimPlan) -> None:
        sandbox_id = self._request.sandbox_id
        request = CreateSandboxRequest(
            sandbox_id=sandbox_id,
            bundle_path=bundle(sandbox_id),
            options=Any(type_url=POD_CONFIG, value=plan.pod_config),
            netns_path=self._netns_path,
            annotations=plan.annotations,
        )
        self._step("CreateSandbox", request, Empty, self._created, patience=CREATE_PATIENCE)

    def check(self, told: OnReady) -> None:
        """A shim that hangs is found out before it is asked for a container."""

        def failed(error: RuntimeFault) -> None:
            told(self._shim.fault("PingSandbox", error))

        heard = (lambda _answer: told(None)), failed
        self._call("PingSandbox", self._request, Empty, heard, patience=PATIENCE)

    def end(self, done: Callable[[], None]) -> None:
        request = StopSandboxRequest(sandbox_id=self._request.sandbox_id, timeout_secs=STOP_SECONDS)

        def shut_down(_answer: object) -> None:
            told = (lambda _answer: done()), (lambda _error: done())
            self._call("ShutdownSandbox", self._request, Empty, told, patience=STOP_SECONDS)

        self._call("StopSandbox", request, Empty, (shut_down, shut_down), patience=STOP_SECONDS)

    def _created(self, _answer: Empty) -> None:
        self._step(
            "StartSandbox",
            self._request,
            StartSandboxResponse,
            self._started,
            patience=CREATE_PATIENCE,
        )

    def _started(self, _answer: StartSandboxResponse) -> None:
        told = self._over, partial(self._lost, "WaitSandbox")
        self._call("WaitSandbox", self._request, WaitSandboxResponse, told, patience=0.0)
        self._step("Platform", self._request, PlatformResponse, self._placed)

    def _placed(self, answer: PlatformResponse) -> None:
        if answer.platform.os != "linux":
            self._shim.refuse(
                f"Platform: {answer.platform.os[:100]!r}, and containers here are for linux"
            )
            return
        request = SandboxStatusRequest(sandbox_id=self._request.sandbox_id)
        self._step("SandboxStatus", request, SandboxStatusResponse, self._seen)

    def _seen(self, answer: SandboxStatusResponse) -> None:
        """A shim whose Wait does not wait is found out here."""
        if self._ended:
            self._shim.refuse(self._ended)
        elif answer.state not in ("", _READY):
            self._shim.refuse(f"SandboxStatus: its state is {answer.state[:100]!r}, not {_READY}")
        else:
            self._up = True
            self._shim.sandbox_ready()

    def _over(self, answer: WaitSandboxResponse) -> None:
        self._end(f"the pod's sandbox has ended, with status {answer.exit_status}")

    def _lost(self, method: str, error: RuntimeFault) -> None:
        """Wait has failed; that the shim is gone the shim hears."""
        if isinstance(error, CallFailed):
            self._end(f"{method}: {error}")

    def _end(self, how: str) -> None:
        self._ended = how
        if self._up and not self._shim.ending:
            self._shim.give_up(how)

    def _step(
        self,
        method: str,
        request: Message,
        answer: type[T],
        hear: Callable[[T], None],
        *,
        patience: float = PATIENCE,
    ) -> None:
        """One of those that bring it up, for as long as that is wanted."""

        def heard(found: T) -> None:
            if not self._shim.ending:
                hear(found)

        told = heard, partial(self._failed, method)
        self._call(method, request, answer, told, patience=patience)

    def _failed(self, method: str, error: RuntimeFault) -> None:
        if isinstance(error, CallFailed) and error.code == Code.UNIMPLEMENTED:
            key = f"[runtime.handlers.{self._shim.handler}]"
            self._shim.give_up(
                f"{method}: {error}: this shim does not serve {SERVICE}; "
                f'in {key} set sandbox = "task" or "none", or path to a shim that does'
            )
        elif isinstance(error, (CallFailed, TookTooLong)):
            self._shim.refuse(f"{method}: {error}")
        else:
            self._shim.give_up(f"{method}: {error}")

    def _call(
        self,
        method: str,
        request: Message,
        answer: type[T],
        told: tuple[Callable[[T], None], Callable[[RuntimeFault], None]],
        *,
        patience: float,
    ) -> None:
        self._shim.call(f"{SERVICE}/{method}", request, answer, told, patience=patience)
