"""ListPodSandbox: those that match a filter. From memory, without a lock: kubelet asks often."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cri.api import api_pb2 as api
    from cri.rpc.services import Services


async def list_pod_sandbox(services: Services, request: api.ListPodSandboxRequest) -> bytes:
    """A serialised ListPodSandboxResponse: each sandbox has its own part of it at hand."""
    found = services.store.sandboxes.select(request.filter)
    return b"".join(sandbox.listed for sandbox in found)
