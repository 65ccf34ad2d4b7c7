"""ReopenContainerLog: kubelet has renamed a container's log and wants a new file at its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.rpc.running import running, unless_ended

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def reopen_container_log(
    services: Services, request: api.ReopenContainerLogRequest
) -> api.ReopenContainerLogResponse:
    """An error, and no new file, if the container doesn't run. A stop under way is no obstacle."""
    container = running(services, request.container_id)
    with unless_ended(container):
        await services.runtime.reopen_log(container.metadata.sandbox_id, container.id)
    return api.ReopenContainerLogResponse()
