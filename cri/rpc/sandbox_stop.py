"""StopPodSandbox: ends all of a pod's processes and gives back its network. Idempotent."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.rpc import container_exit, container_stop
from cri.rpc.finish import finish
from cri.store.container import ContainerState
from cri.store.sandbox import SandboxState
from cri.undo import Undo

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.sandbox import Sandbox


log = logging.getLogger(__name__)


async def stop_pod_sandbox(
    services: Services, request: api.StopPodSandboxRequest
) -> api.StopPodSandboxResponse:
    """Unknown: stopped already (api.proto: must not return an error)."""
    sandbox = services.store.sandboxes.find(request.pod_sandbox_id)
    if sandbox is not None:
        await finish(services, f"stop sandbox {sandbox.id}", _stop(services, sandbox.id))
    return api.StopPodSandboxResponse()


async def _stop(services: Services, sandbox_id: str) -> None:
    async with services.locks.hold(sandbox_id):
        await release(services, sandbox_id)


async def release(services: Services, sandbox_id: str) -> None:
    """Everything that a sandbox has but its record. The caller holds its lock.

    Every step is tried; if one fails the sandbox stays as it is, NOTREADY, to be stopped again, and
    the failure is raised.
    """
    sandbox = services.store.sandboxes.exact(sandbox_id)
    if sandbox is None or sandbox.status.stopped:
        return
    if sandbox.status.state is SandboxState.READY:
        services.store.sandboxes.update(
            sandbox_id, lambda status: status.to(SandboxState.NOTREADY, reason="stopped")
        )
    undo = Undo(f"stop sandbox {sandbox_id}")
    async with undo:  # never committed: all of it is to be undone, newest first
        undo.push("remove processes and namespaces", _remove_processes, services, sandbox)
        undo.push("detach the network", _detach, services, sandbox)
        plugins = services.plugins
        if plugins and sandbox.status.state is not SandboxState.INITIALIZING:
            undo.push("tell NRI plugins", plugins.stop_pod, sandbox)
        undo.push("kill containers", _kill_containers, services, sandbox_id)
    if undo.leftovers:
        error = undo.leftovers[0].error
        for leftover in undo.leftovers:
            error.add_note(str(leftover))
        raise error
    for container in services.store.containers.of_sandbox(sandbox_id):
        if container.status.state is ContainerState.RUNNING:
            container_exit.vanished(services, container, "its sandbox was stopped")
    services.store.sandboxes.update(
        sandbox_id, lambda status: dataclasses.replace(status, stopped=True, ips=(), pid=0)
    )


async def _kill_containers(services: Services, sandbox_id: str) -> None:
    running = [
        container
        for container in services.store.containers.of_sandbox(sandbox_id)
        if container.status.state is ContainerState.RUNNING
    ]
    if not running:
        return
    with trace.stage("kill containers"):
        outcomes = await asyncio.gather(
            *(container_stop.kill(services, one) for one in running), return_exceptions=True
        )
    for outcome in outcomes:  # they go with their monitor, next
        if isinstance(outcome, Exception):
            log.warning("stop sandbox %s: %s", sandbox_id, outcome)


async def _detach(services: Services, sandbox: Sandbox) -> None:
    if sandbox.metadata.netns_path:
        with trace.stage("detach network"):
            await services.network.detach(sandbox.id)


async def _remove_processes(services: Services, sandbox: Sandbox) -> None:
    with trace.stage("remove sandbox"):
        await services.runtime.remove_sandbox(
            sandbox.id, cgroup_parent=sandbox.metadata.cgroup_parent
        )
