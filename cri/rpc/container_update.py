"""UpdateContainerResources: other limits for a container, whatever state it is in; all or none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.rpc import container_spec
from cri.rpc.finish import finish
from cri.specgen import facts, resources, update
from cri.store.container import ContainerState
from cri.undo import Undo
from runtime.cgroup.units import container_cgroup
from runtime.errors import ContainerNotFound as NotRunning
from runtime.update import Update

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container

log = logging.getLogger(__name__)


async def update_container_resources(
    services: Services, request: api.UpdateContainerResourcesRequest
) -> api.UpdateContainerResourcesResponse:
    """Zero and "" leave what is. Annotations are hints for runtimes that know them: not for us.

    Raises ContainerNotFound, InvalidRequest, InvalidSpec, MemoryInUse, CgroupRefused.
    """
    container = services.store.containers.get(request.container_id)
    asked = api.LinuxContainerResources()
    asked.CopyFrom(request.linux)
    what = f"update container {container.id}"
    await finish(services, what, _update(services, container, asked))
    return api.UpdateContainerResourcesResponse()


async def _update(
    services: Services, container: Container, asked: api.LinuxContainerResources
) -> None:
    """Plugins are asked while no lock is held: they may want others updated."""
    plugins = services.plugins
    if plugins:
        asked = await plugins.update_container(container, asked)
    await apply(services, container.id, asked)
    if plugins:
        await plugins.container_updated(container.id)


async def apply(services: Services, container_id: str, asked: api.LinuxContainerResources) -> None:
    """What of a container's resources is asked for becomes true, or nothing of it."""
    async with services.locks.hold(container_id):
        container = services.store.containers.get(container_id)
        new = update.merged(container.config.linux.resources, asked)
        services.runtime.updates.check(resources.translated(new, update.FIELD))
        async with Undo(f"update container {container_id}") as undo:
            part = update.touched(asked, new)
            if container.status.state is ContainerState.RUNNING:
                await _change(services, container, part, undo)
            with trace.stage("record"):
                services.store.containers.amend(container_id, lambda one: one.with_resources(new))
            undo.commit()
        spec = services.specs.get(container_id)
        if spec is not None:  # else it is made of the record when it is wanted
            services.specs[container_id] = update.respecified(spec, part, facts.lowest_oom_score())


async def _change(
    services: Services, container: Container, part: api.LinuxContainerResources, undo: Undo
) -> None:
    """Change what runs. One that has just ended has nothing to change, as if it had before."""
    sandbox = services.store.sandboxes.get(container.metadata.sandbox_id)
    lowest = facts.lowest_oom_score()
    score = part.oom_score_adj and max(part.oom_score_adj, lowest)
    if score:
        container_spec.tell_of_raised_score(container.id, part.oom_score_adj, lowest)
    wanted = Update(
        container_id=container.id,
        cgroup_path=container_cgroup(sandbox.metadata.cgroup_parent, container.id),
        resources=resources.translated(part, update.FIELD),
        oom_score_adj=score or None,
    )
    try:
        with trace.stage("change limits"):
            done = await services.runtime.updates.apply(wanted)
    except NotRunning:
        return
    undo.push("put the old limits back", services.runtime.updates.put_back, wanted, done)
    for note in done.notes:
        log.info("container %s: %s", container.id, note)
