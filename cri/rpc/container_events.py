"""GetContainerEvents: what happens to sandboxes and containers, as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.events import What
from cri.rpc import container_status, sandbox_status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cri.events import Event
    from cri.rpc.services import Services

_TYPES = {
    What.CREATED: api.CONTAINER_CREATED_EVENT,
    What.STARTED: api.CONTAINER_STARTED_EVENT,
    What.STOPPED: api.CONTAINER_STOPPED_EVENT,
    What.DELETED: api.CONTAINER_DELETED_EVENT,
}


async def get_container_events(
    services: Services, request: api.GetEventsRequest
) -> AsyncGenerator[api.ContainerEventResponse, None]:
    """Until the client goes, or the daemon stops. Raises LimitReached for a client that is slow."""
    with services.events.watch() as watcher:
        async for event in watcher:
            yield event_message(services, event)


def event_message(services: Services, event: Event) -> api.ContainerEventResponse:
    """An event as CRI tells it: with its pod's status, without which kubelet would drop it."""
    return api.ContainerEventResponse(
        container_id=event.subject,
        container_event_type=_TYPES[event.what],
        created_at=event.created_at,
        pod_sandbox_status=sandbox_status.status_message(event.sandbox),
        containers_statuses=container_status.pod_messages(services, event.containers),
    )
