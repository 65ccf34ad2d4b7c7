"""What each RPC asks NRI plugins, and tells them. Called while `services.nri.active` only."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import AdjustmentImpossible
from cri.nri import resources
from cri.nri.api import nri_pb2 as nri
from cri.rpc import nri_spec, nri_update
from cri.rpc.nri_host import container_message, pod_message, pod_of
from cri.specgen import update
from cri.specgen.process import OOM_SCORES
from cri.store.container import Container, ContainerState

if TYPE_CHECKING:
    from cri.nri.adjustments import Adjustments
    from cri.rpc.services import Services
    from cri.store.container import ContainerMetadata
    from cri.store.sandbox import Sandbox
    from cri.undo import Undo
    from runtime.spec import Spec

log = logging.getLogger(__name__)
_STAGE = "ask NRI plugins"


async def run_pod(services: Services, sandbox: Sandbox, undo: Undo) -> None:
    """sandbox: as it is going to be. Raises PluginRefused."""
    pod = pod_message(sandbox)
    undo.push("tell NRI plugins that the pod is gone", services.nri.relay.remove_pod, pod)
    with trace.stage(_STAGE):
        await services.nri.relay.run_pod(pod)


async def stop_pod(services: Services, sandbox: Sandbox) -> None:
    """Its containers have ended, its network is still there."""
    for container in services.store.containers.of_sandbox(sandbox.id):
        await services.nri.relay.told_of_end(container.id)
    with trace.stage(_STAGE):
        await services.nri.relay.stop_pod(pod_message(sandbox))


async def remove_pod(services: Services, sandbox: Sandbox) -> None:
    """It is about to be forgotten."""
    with trace.stage(_STAGE):
        await services.nri.relay.remove_pod(pod_message(sandbox))


async def update_pod(
    services: Services,
    sandbox: Sandbox,
    overhead: api.LinuxContainerResources,
    wanted: api.LinuxContainerResources,
) -> None:
    """Raises PluginRefused."""
    request = nri.UpdatePodSandboxRequest(
        pod=pod_message(sandbox),
        overhead_linux_resources=resources.from_cri(overhead),
        linux_resources=resources.from_cri(wanted),
    )
    with trace.stage(_STAGE):
        await services.nri.relay.update_pod(request)


async def pod_updated(services: Services, sandbox: Sandbox) -> None:
    """It is done."""
    await services.nri.relay.pod_updated(pod_message(sandbox))


@dataclass(frozen=True, slots=True)
class Adjusted:
    """A container as plugins want it to be. config: with what of it CRI has words for."""

    metadata: ContainerMetadata
    config: api.ContainerConfig
    spec: Spec


async def create_container(
    services: Services, sandbox: Sandbox, asked: Adjusted, undo: Undo
) -> Adjusted:
    """asked: as the client wants it. Raises CriFault, RuntimeFault."""
    container_id = asked.metadata.id
    record = Container(asked.metadata, asked.config)
    pod, container = pod_message(sandbox), container_message(services, record, asked.spec)
    undo.push("tell NRI plugins that the container is gone", _forget, services, pod, container)
    with trace.stage(_STAGE):
        adjustments = await services.nri.relay.create_container(pod, container)
    merged = adjustments.merged
    who = adjustments.owners.names(container_id)
    if not who:
        return asked

    def owner(field: nri.Field, entry: str) -> str:
        return adjustments.owners.of(container_id, field, entry)

    spec = await nri_spec.adjusted(services, sandbox, asked.spec, merged, owner)
    log.info("container %s is adjusted by NRI plugins: %s", container_id, ", ".join(sorted(who)))
    config, rest = _divided(asked.config, adjustments)
    metadata = dataclasses.replace(
        asked.metadata,
        adjustment=rest.SerializeToString(),
        cgroup_path=spec.linux.cgroups_path if merged.linux.cgroups_path else "",
    )
    return Adjusted(metadata, config, spec)


async def _forget(services: Services, pod: nri.PodSandbox, container: nri.Container) -> None:
    relay = services.nri.relay
    await relay.stop_container(pod, container)
    await relay.remove_container(pod, container)
    relay.forgotten(container.id)


def _divided(
    config: api.ContainerConfig, adjustments: Adjustments
) -> tuple[api.ContainerConfig, nri.ContainerAdjustment]:
    """What CRI has words for goes into the config, as later updates build on it, and the rest."""
    merged, rest, made = adjustments.merged, nri.ContainerAdjustment(), api.ContainerConfig()
    made.CopyFrom(config)
    rest.CopyFrom(merged)
    wanted = resources.to_cri(merged.linux.resources)
    made.linux.resources.CopyFrom(update.merged(config.linux.resources, wanted))
    if merged.linux.HasField("oom_score_adj"):
        score = merged.linux.oom_score_adj.value
        if score not in OOM_SCORES:
            who = adjustments.owners.of(adjustments.request.container.id, nri.OomScoreAdj)
            text = f"{score} is not between -1000 and 1000"
            raise AdjustmentImpossible(who, "linux.oom_score_adj", text)
        made.linux.resources.oom_score_adj = score
    rest.linux.ClearField("oom_score_adj")
    rest.linux.resources.CopyFrom(resources.without_cri(merged.linux.resources))
    return made, rest


async def container_created(services: Services, container: Container) -> None:
    """It is done."""
    pod = pod_of(services, container)
    await services.nri.relay.container_created(pod, container_message(services, container))


async def start_container(services: Services, container: Container) -> None:
    """Raises PluginRefused."""
    pod, message = pod_of(services, container), container_message(services, container)
    with trace.stage(_STAGE):
        await services.nri.relay.start_container(pod, message)


async def container_started(services: Services, container_id: str) -> None:
    """It is done."""
    container = services.store.containers.exact(container_id)
    if container is not None:
        pod, message = pod_of(services, container), container_message(services, container)
        await services.nri.relay.container_started(pod, message)


async def update_container(
    services: Services, container: Container, asked: api.LinuxContainerResources
) -> tuple[api.LinuxContainerResources, update.Beyond | None]:
    """What plugins make of it. Raises PluginRefused, PluginsDisagree, AdjustmentImpossible."""
    request = nri.UpdateContainerRequest(
        pod=pod_of(services, container),
        container=container_message(services, container),
        linux_resources=resources.from_cri(asked),
    )
    with trace.stage(_STAGE):
        who = await services.nri.relay.update_container(request)
    if not who:
        return asked, None
    made, beyond = nri_update.divided(request.linux_resources, who)
    log.info("container %s: its update is changed by NRI plugins: %s", container.id, who)
    made.oom_score_adj = asked.oom_score_adj
    return made, beyond


async def container_updated(services: Services, container_id: str) -> None:
    """It is done."""
    container = services.store.containers.exact(container_id)
    if container is not None:
        pod, message = pod_of(services, container), container_message(services, container)
        await services.nri.relay.container_updated(pod, message)


async def remove_container(services: Services, container: Container) -> None:
    """It is about to be forgotten; one that never ran is stopped for plugins, too."""
    relay = services.nri.relay
    relay.plugins.leaving.add(container.id)  # it is locked: nobody may wait to update it
    container = services.store.containers.exact(container.id) or container
    pod, message = pod_of(services, container), container_message(services, container)
    with trace.stage(_STAGE):
        if container.status.state is ContainerState.CREATED:
            await relay.stop_container(pod, message)
        await relay.told_of_end(container.id)
        await relay.remove_container(pod, message)
