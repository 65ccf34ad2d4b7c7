"""UpdatePodSandboxResources: kubelet tells what it has made of the pod's cgroup; we remember it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import SandboxNotFound
from cri.store.sandbox import SandboxState

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def update_pod_sandbox_resources(
    services: Services, request: api.UpdatePodSandboxResourcesRequest
) -> api.UpdatePodSandboxResourcesResponse:
    """Raises SandboxNotFound. The pod's cgroup is kubelet's: we touch nothing of it."""
    sandbox = services.store.sandboxes.get(request.pod_sandbox_id)
    if sandbox.status.state is SandboxState.INITIALIZING:
        raise SandboxNotFound(request.pod_sandbox_id)
    overhead = request.overhead if request.HasField("overhead") else None
    resources = request.resources if request.HasField("resources") else None
    plugins = services.plugins
    if plugins:
        await plugins.update_pod(sandbox, request.overhead, request.resources)
    with trace.stage("record"):
        changed = services.store.sandboxes.amend(
            sandbox.id, lambda one: one.with_resources(overhead=overhead, resources=resources)
        )
    if plugins:
        await plugins.pod_updated(changed)
    return api.UpdatePodSandboxResourcesResponse()
