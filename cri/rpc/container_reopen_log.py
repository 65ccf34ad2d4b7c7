"""ReopenContainerLog: kubelet has renamed a container's log and wants a new file at its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import WrongState
from cri.store.container import ContainerState
from runtime.errors import ContainerNotFound

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def reopen_container_log(
    services: Services, request: api.ReopenContainerLogRequest
) -> api.ReopenContainerLogResponse:
    """An error, and no new file, if the container doesn't run. A stop under way is no obstacle."""
    container = services.store.containers.get(request.container_id)
    if container.status.state is not ContainerState.RUNNING:
        raise WrongState(f"container {container.id} is {container.status.state}, not running")
    try:
        await services.runtime.reopen_log(container.metadata.sandbox_id, container.id)
    except ContainerNotFound as error:
        raise WrongState(f"container {container.id} has ended") from error
    return api.ReopenContainerLogResponse()
