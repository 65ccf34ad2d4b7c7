"""ListContainers, StreamContainers: those that match a filter.

From memory, without a lock: kubelet asks often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.rpc.batches import batches

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cri.api import api_pb2 as api
    from cri.rpc.services import Services


async def list_containers(services: Services, request: api.ListContainersRequest) -> bytes:
    """A serialised ListContainersResponse: each container has its own part of it at hand."""
    found = services.store.containers.select(request.filter)
    return b"".join(container.listed for container in found)


async def stream_containers(
    services: Services, request: api.StreamContainersRequest
) -> AsyncGenerator[bytes, None]:
    """Serialised StreamContainersResponses; all as it is now: none twice, none missing."""
    found = services.store.containers.select(request.filter)
    for batch in batches(container.listed for container in found):
        yield batch
