"""Container events as a client of the daemon sees them (GetContainerEvents)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

import grpc

from cri.api import api_pb2 as api
from e2e.kubelet import until

if TYPE_CHECKING:
    from types import TracebackType

    from e2e.node import Node

NAMES = {
    api.CONTAINER_CREATED_EVENT: "CREATED",
    api.CONTAINER_STARTED_EVENT: "STARTED",
    api.CONTAINER_STOPPED_EVENT: "STOPPED",
    api.CONTAINER_DELETED_EVENT: "DELETED",
}


class Watch:
    """One stream on a connection of its own. It begins before the constructor returns."""

    def __init__(self, node: Node) -> None:
        self.events: list[api.ContainerEventResponse] = []
        self.end: grpc.StatusCode | None = None
        self.details = ""
        self._channel = grpc.insecure_channel(node.client.address)
        self._call = self._channel.unary_stream(
            "/runtime.v1.RuntimeService/GetContainerEvents",
            request_serializer=api.GetEventsRequest.SerializeToString,
            response_deserializer=api.ContainerEventResponse.FromString,
        )(api.GetEventsRequest())
        self._call.initial_metadata()
        self._reader = threading.Thread(target=self._read)

    def read(self) -> Self:
        """From now on, in a thread."""
        self._reader.start()
        return self

    def _read(self) -> None:
        try:
            for event in self._call:
                self.events.append(event)
        except grpc.RpcError:
            self.details = self._call.details() or ""
        self.end = self._call.code()

    def ended(self, patience: float = 20) -> grpc.StatusCode:
        """The status with which the daemon ended the stream."""
        self._reader.join(patience)
        assert self.end is not None
        return self.end

    def of(self, sandbox_id: str) -> list[api.ContainerEventResponse]:
        """What was told of a pod so far."""
        return [event for event in list(self.events) if event.pod_sandbox_status.id == sandbox_id]

    def told(self, sandbox_id: str) -> list[tuple[str, str]]:
        """The same in short: what, and of whom."""
        return [
            (NAMES[event.container_event_type], event.container_id) for event in self.of(sandbox_id)
        ]

    def until_told(self, sandbox_id: str, what: str, subject: str) -> None:
        until(lambda: (what, subject) in self.told(sandbox_id), f"{subject} was told as {what}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call.cancel()
        if self._reader.ident is not None:
            self._reader.join()
        self._channel.close()
