"""ListPodSandbox, StreamPodSandboxes: those that match a filter.

From memory, without a lock: kubelet asks often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.rpc.batches import batches

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cri.api import api_pb2 as api
    from cri.rpc.services import Services


async def list_pod_sandbox(services: Services, request: api.ListPodSandboxRequest) -> bytes:
    """A serialised ListPodSandboxResponse: each sandbox has its own part of it at hand."""
    found = services.store.sandboxes.select(request.filter)
    return b"".join(sandbox.listed for sandbox in found)


async def stream_pod_sandboxes(
    services: Services, request: api.StreamPodSandboxesRequest
) -> AsyncGenerator[bytes, None]:
    """Serialised StreamPodSandboxesResponses; all as it is now: none twice, none missing."""
    found = services.store.sandboxes.select(request.filter)
    for batch in batches(sandbox.listed for sandbox in found):
        yield batch
