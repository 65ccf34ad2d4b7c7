"""StartContainer: from CREATED to RUNNING; or, if that fails, to EXITED with the reason."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import CriFault, WrongState
from cri.rpc import (
    checkpoint_source,
    container_create,
    container_exit,
    container_spec,
    runtime_handlers,
)
from cri.rpc.finish import finish
from cri.store.container import ContainerState
from cri.store.sandbox import SandboxState
from image.errors import ImageFault
from network.errors import NetworkFault
from runtime.errors import RuntimeFault
from runtime.init import skeleton
from runtime.lifecycle import ContainerRequest
from runtime.spec import Rootfs

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container, ContainerStatus
    from cri.store.sandbox import Sandbox
    from runtime.lifecycle import Started

log = logging.getLogger(__name__)


async def start_container(
    services: Services, request: api.StartContainerRequest
) -> api.StartContainerResponse:
    """Once begun, a start is brought to its end: kubelet asks for the status later."""
    container = services.store.containers.get(request.container_id)
    await finish(services, f"start container {container.id}", _start(services, container.id))
    return api.StartContainerResponse()


async def _start(services: Services, container_id: str) -> None:
    async with services.locks.hold(container_id):
        container = services.store.containers.get(container_id)
        sandbox = _startable(services, container)
        try:
            if plugins := services.plugins:
                async with services.locks.lend(container_id):  # they may update this very one
                    await plugins.start_container(container)
                container = services.store.containers.get(container_id)
            request = await _request(services, sandbox, container)
            if request.spec.linux.net_devices:
                from cri.rpc import net_devices  # few containers have any

                await net_devices.take(services, sandbox.id, request.spec)
            started = await _started(services, container, request)
        except (RuntimeFault, CriFault, ImageFault, NetworkFault, OSError) as error:
            container_exit.start_failed(services, container_id, error)
            raise
        trace.merge((stage.name, stage.start, stage.duration) for stage in started.stages)
        with trace.stage("record"):
            services.store.containers.update(
                container_id, lambda status: after_start(status, started)
            )
    if container.metadata.checkpoint:
        await checkpoint_source.remove(services, container_id)
    for warning in started.warnings:
        log.info("container %s: %s", container_id, warning)
    if plugins := services.plugins:
        await plugins.container_started(container_id)


async def _started(services: Services, container: Container, request: ContainerRequest) -> Started:
    with trace.stage("start container"):
        if not container.metadata.checkpoint:
            return await services.runtime.start_container(request)
        async with checkpoint_source.memory(services, container) as shm:
            request = dataclasses.replace(request, shm=shm)
            return await services.runtime.start_container(request)


def _startable(services: Services, container: Container) -> Sandbox:
    if container.status.state is not ContainerState.CREATED:
        raise WrongState(
            f"container {container.id} is {container.status.state}: only a created one is started"
        )
    sandbox = services.store.sandboxes.get(container.metadata.sandbox_id)
    if sandbox.status.state is not SandboxState.READY:
        raise WrongState(
            f"container {container.id}: its sandbox {sandbox.id} is {sandbox.status.state}"
        )
    return sandbox


async def _request(services: Services, sandbox: Sandbox, container: Container) -> ContainerRequest:
    metadata, config = container.metadata, container.config
    handler = runtime_handlers.of(services, sandbox)
    spec = services.specs.get(container.id)
    if spec is None:  # the daemon was restarted since
        spec = services.specs[container.id] = await container_spec.remade(
            services, sandbox, container
        )
    overlay = services.images.snapshot(container.id)
    if overlay is None:
        raise WrongState(f"container {container.id} has no snapshot: remove it and create it anew")
    return ContainerRequest(
        sandbox_id=sandbox.id,
        container_id=container.id,
        spec=spec,
        rootfs=Rootfs(
            (*overlay.lower, _skeleton(services.paths.skeleton)), overlay.upper, overlay.work
        ),
        log_path=metadata.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        pid_target=container_create.check_target(services, sandbox, config),
        handler=handler.name,
        checkpoint=str(services.paths.checkpoint(container.id)) if metadata.checkpoint else "",
    )


@functools.cache
def _skeleton(path: Path) -> str:
    """Mount points which images lack: made once, not in each writable layer."""
    skeleton.make(os.fspath(path))
    return os.fspath(path)


def after_start(status: ContainerStatus, started: Started) -> ContainerStatus:
    """The status once it runs; a short-lived one's exit may have come first, and stays."""
    if status.state is ContainerState.CREATED:
        status = dataclasses.replace(status.to(ContainerState.RUNNING), pid=started.pid)
    who = started.identity
    return dataclasses.replace(
        status, started_at=started.started_at, uid=who.uid, gid=who.gid, groups=who.groups
    )
