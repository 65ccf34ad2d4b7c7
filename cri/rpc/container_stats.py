"""ContainerStats, ListContainerStats, StreamContainerStats: what containers use.

kubelet evicts by it, every 10 s.

A container that doesn't run has its attributes, and what it had written when it was counted last.
One that ends or is removed while others are read has no more than that; it fails nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.rpc import usage_messages
from cri.rpc.batches import batches
from cri.store.container import ContainerState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from cri.rpc.services import Services
    from cri.store.container import Container
    from runtime.usage import Usage

SLICE = 64  # containers in a row: a third of a millisecond; then others have the event loop
_STATS = 1  # the field of all three responses: of one, of a list, of a stream


async def container_stats(services: Services, request: api.ContainerStatsRequest) -> bytes:
    """A serialised ContainerStatsResponse. Raises ContainerNotFound."""
    container = services.store.containers.get(request.container_id)
    return usage_messages.field(_STATS, (await _pieces(services, [container]))[0])


async def list_container_stats(services: Services, request: api.ListContainerStatsRequest) -> bytes:
    """A serialised ListContainerStatsResponse."""
    return b"".join(await frames_of(services, request.filter))


async def stream_container_stats(
    services: Services, request: api.StreamContainerStatsRequest
) -> AsyncGenerator[bytes, None]:
    """Serialised StreamContainerStatsResponses: the same, in several messages."""
    for batch in batches(await frames_of(services, request.filter)):
        yield batch


async def frames_of(services: Services, wanted: api.ContainerStatsFilter) -> list[bytes]:
    """Each a serialised response of one container, whether answered at once or as a stream."""
    found = await _pieces(services, _select(services, wanted))
    return [usage_messages.field(_STATS, piece) for piece in found]


def _select(services: Services, wanted: api.ContainerStatsFilter) -> list[Container]:
    """As ListContainers understands its filter."""
    return services.store.containers.select(
        api.ContainerFilter(
            id=wanted.id,
            pod_sandbox_id=wanted.pod_sandbox_id,
            label_selector=wanted.label_selector,
        )
    )


def cgroup_of(services: Services, container: Container) -> str:
    """The cgroup of a container that runs; "" for one that doesn't."""
    if container.status.state is not ContainerState.RUNNING:
        return ""
    sandbox = services.store.sandboxes.exact(container.metadata.sandbox_id)
    if sandbox is None:
        return ""
    return container.metadata.cgroup(sandbox.metadata.cgroup_parent)


async def _pieces(services: Services, containers: Sequence[Container]) -> list[bytes]:
    """A serialised ContainerStats of each."""
    cgroups = [cgroup_of(services, container) for container in containers]
    usages = await services.runtime.usages.usages([cgroup for cgroup in cgroups if cgroup])
    return await made(services, containers, cgroups, usages)


async def made(
    services: Services,
    containers: Sequence[Container],
    cgroups: Sequence[str],
    usages: Mapping[str, Usage],
) -> list[bytes]:
    """A serialised ContainerStats of each, whose numbers are among `usages`, by cgroup."""
    writable = services.images.writable
    found = []
    for number, (container, cgroup) in enumerate(zip(containers, cgroups, strict=True), 1):
        usage, written = usages.get(cgroup), writable.find(container.id)
        part = usage_messages.container(usage, written, writable.mountpoint)
        found.append(container.attributes + part)
        if number % SLICE == 0:
            await asyncio.sleep(0)
    return found
