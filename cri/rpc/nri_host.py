"""What NRI plugins learn of our records, and what they may do to containers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cri.errors import ContainerNotFound, CriFault
from cri.nri import messages
from cri.nri.api import nri_pb2 as nri
from cri.nri.peer import quoted
from cri.rpc import container_stop, container_update, nri_spec, nri_update
from cri.rpc.finish import finish
from cri.store.container import ContainerState
from cri.store.sandbox import SandboxState
from image.errors import ImageFault
from runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container
    from cri.store.sandbox import Sandbox
    from runtime.spec import Spec

log = logging.getLogger(__name__)


def pod_message(sandbox: Sandbox) -> nri.PodSandbox:
    """A sandbox as plugins know it."""
    return messages.pod(sandbox)


def pod_of(services: Services, container: Container) -> nri.PodSandbox:
    """The pod of a container; of one that is gone, its id."""
    sandbox = services.store.sandboxes.exact(container.metadata.sandbox_id)
    if sandbox is None:
        return nri.PodSandbox(id=container.metadata.sandbox_id)
    return messages.pod(sandbox)


def container_message(
    services: Services, container: Container, spec: Spec | None = None
) -> nri.Container:
    """A container as plugins know it. spec: the one that counts; None: the one that it has."""
    adjustment = nri.ContainerAdjustment.FromString(container.metadata.adjustment or b"")
    if spec is None:
        spec = services.specs.get(container.id) or _sketch(services, container)
    message = messages.container(container, spec, adjustment)
    image = services.images.find(container.metadata.image_id)
    if image is not None and image.digests:
        message.image.digest = image.digests[0].rpartition("@")[2]
    return message


def _sketch(services: Services, container: Container) -> Spec | None:
    """The daemon was restarted since, and the node's devices have not been looked at anew."""
    try:
        return nri_spec.sketch(services, container)
    except (CriFault, ImageFault, RuntimeFault) as error:
        log.debug("container %s can't be described any more: %s", container.id, error)
        return None


class NriHost:
    """See `Host`. Follows the store: what ends is told to plugins, whoever has ended it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        services.store.sandboxes.follow(self._sandbox_changed)
        services.store.containers.follow(self._container_changed)

    def pods(self) -> list[nri.PodSandbox]:
        return [
            messages.pod(sandbox)
            for sandbox in self._services.store.sandboxes
            if sandbox.status.state is not SandboxState.INITIALIZING
        ]

    def containers(self) -> list[nri.Container]:
        return [
            container_message(self._services, container)
            for container in self._services.store.containers
            if container.status.state in (ContainerState.CREATED, ContainerState.RUNNING)
        ]

    async def update(self, plugin: str, update: nri.ContainerUpdate) -> None:
        wanted, beyond = nri_update.divided(update.linux.resources, plugin)
        container = self._services.store.containers.exact(update.container_id)
        leaves = update.container_id in self._services.nri.relay.plugins.leaving
        if container is None or leaves or container.status.state is ContainerState.EXITED:
            raise ContainerNotFound(update.container_id)
        log.info("NRI plugin %s updates container %s", plugin, container.id)
        await finish(
            self._services,
            f"update container {container.id} for NRI plugin {plugin}",
            container_update.apply(self._services, container.id, wanted, beyond),
        )

    async def evict(self, plugin: str, eviction: nri.ContainerEviction) -> None:
        container = self._services.store.containers.exact(eviction.container_id)
        if container is None:
            raise ContainerNotFound(eviction.container_id)
        reason = quoted(eviction.reason) or "it gives no reason"
        log.warning("NRI plugin %s evicts container %s: %s", plugin, container.id, reason)
        if container.status.state is ContainerState.CREATED:
            async with self._services.locks.hold(container.id):  # it may be starting just now
                container = self._services.store.containers.exact(container.id)
        if container is not None and container.status.state is ContainerState.RUNNING:
            await container_stop.kill(self._services, container)

    def _sandbox_changed(self, old: Sandbox | None, new: Sandbox | None) -> None:
        if new is None:
            assert old is not None
            self._services.nri.relay.forgotten(old.id)
        elif new.status.state is not SandboxState.INITIALIZING:
            self._services.nri.relay.settled(new.id)

    def _container_changed(self, old: Container | None, new: Container | None) -> None:
        relay = self._services.nri.relay
        if new is None:
            assert old is not None
            return relay.forgotten(old.id)
        relay.settled(new.id)
        ended = new.status.state is ContainerState.EXITED
        was = old is not None and old.status.state is not ContainerState.EXITED
        if ended and was and self._services.nri.active:
            relay.container_ended(
                pod_of(self._services, new), container_message(self._services, new)
            )
        return None
