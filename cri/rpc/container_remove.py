"""RemoveContainer: the container and its writable layer are gone; its log stays. Idempotent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.rpc import checkpoint_source, container_stop
from cri.rpc.finish import finish
from cri.store.container import ContainerState

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def remove_container(
    services: Services, request: api.RemoveContainerRequest
) -> api.RemoveContainerResponse:
    """Kills it if it runs. Unknown: removed already (api.proto: must not return an error).

    A second call waits for the first.
    """
    container = services.store.containers.find(request.container_id)
    if container is not None:
        await finish(services, f"remove container {container.id}", remove(services, container.id))
    return api.RemoveContainerResponse()


async def remove(services: Services, container_id: str) -> None:
    """Take away all that a container has, its record last, so that what fails is tried again."""
    async with services.locks.hold(container_id):
        container = services.store.containers.exact(container_id)
        if container is None:
            return
        if container.status.state is ContainerState.RUNNING:
            await container_stop.kill(services, container)
        with trace.stage("forget exit"):
            await services.runtime.remove_container(container.metadata.sandbox_id, container_id)
        with trace.stage("discard snapshot"):
            await services.images.discard(container_id)
        if container.metadata.checkpoint:
            await checkpoint_source.remove(services, container_id)
        if plugins := services.plugins:
            await plugins.remove_container(container)
        services.specs.pop(container_id, None)
        with trace.stage("record"):
            services.store.containers.remove(container_id)
