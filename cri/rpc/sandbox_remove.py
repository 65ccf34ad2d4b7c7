"""RemovePodSandbox: the sandbox, its containers and their files are gone. Idempotent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.rpc import checkpoint_source, container_remove, sandbox_stop
from cri.rpc.finish import finish

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def remove_pod_sandbox(
    services: Services, request: api.RemovePodSandboxRequest
) -> api.RemovePodSandboxResponse:
    """Stops it first if need be. Unknown: removed already (api.proto: must not return an error)."""
    sandbox = services.store.sandboxes.find(request.pod_sandbox_id)
    if sandbox is not None:
        await finish(services, f"remove sandbox {sandbox.id}", _remove(services, sandbox.id))
    return api.RemovePodSandboxResponse()


async def _remove(services: Services, sandbox_id: str) -> None:
    async with services.locks.hold(sandbox_id):
        await sandbox_stop.release(services, sandbox_id)
        for container in services.store.containers.of_sandbox(sandbox_id):
            await container_remove.remove(services, container.id)
        sandbox = services.store.sandboxes.exact(sandbox_id)
        if sandbox is not None and (plugins := services.plugins):
            await plugins.remove_pod(sandbox)
        if services.paths.checkpoint(sandbox_id).exists():  # few were made of a checkpoint
            await checkpoint_source.remove(services, sandbox_id)
        with trace.stage("record"):
            services.store.sandboxes.remove(sandbox_id)
