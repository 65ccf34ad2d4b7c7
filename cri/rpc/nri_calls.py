"""What each RPC asks NRI plugins, and tells them. See `Services.plugins`."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import AdjustmentImpossible
from cri.nri import resources
from cri.nri.api import nri_pb2 as nri
from cri.rpc import nri_spec
from cri.rpc.nri_host import container_message, pod_message, pod_of
from cri.specgen import update
from cri.specgen.process import OOM_SCORES
from cri.store.container import Container, ContainerState

if TYPE_CHECKING:
    from cri.nri.adjustments import Adjustments
    from cri.rpc.services import Services
    from cri.store.sandbox import Sandbox
    from cri.undo import Undo
    from runtime.spec import Spec

log = logging.getLogger(__name__)
_STAGE = "ask NRI plugins"


class NriCalls:
    """For handlers, while there is anybody to be asked."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._relay = services.nri.relay

    async def run_pod(self, sandbox: Sandbox, undo: Undo) -> None:
        """sandbox: as it is going to be. Raises PluginRefused."""
        pod = pod_message(sandbox)
        undo.push("tell NRI plugins that the pod is gone", self._relay.remove_pod, pod)
        with trace.stage(_STAGE):
            await self._relay.run_pod(pod)

    async def stop_pod(self, sandbox: Sandbox) -> None:
        """Its containers have ended, its network is still there."""
        for container in self._services.store.containers.of_sandbox(sandbox.id):
            await self._relay.told_of_end(container.id)
        with trace.stage(_STAGE):
            await self._relay.stop_pod(pod_message(sandbox))

    async def remove_pod(self, sandbox: Sandbox) -> None:
        """It is about to be forgotten."""
        with trace.stage(_STAGE):
            await self._relay.remove_pod(pod_message(sandbox))

    async def update_pod(
        self,
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
            await self._relay.update_pod(request)

    async def pod_updated(self, sandbox: Sandbox) -> None:
        """It is done."""
        await self._relay.pod_updated(pod_message(sandbox))

    async def create_container(
        self, sandbox: Sandbox, asked: Container, spec: Spec, undo: Undo
    ) -> tuple[Container, Spec]:
        """The container and its spec as plugins want them to be: what CRI has words for is in the
        container's config, the rest in its metadata. Raises CriFault, RuntimeFault.
        """
        pod, container = pod_message(sandbox), container_message(self._services, asked, spec)
        undo.push("tell NRI plugins that the container is gone", self._forget, pod, container)
        with trace.stage(_STAGE):
            adjustments = await self._relay.create_container(pod, container)
        who = adjustments.owners.names(asked.id)
        if not who:
            return asked, spec

        def owner(field: nri.Field, entry: str) -> str:
            return adjustments.owners.of(asked.id, field, entry)

        spec = await nri_spec.adjusted(self._services, sandbox, spec, adjustments.merged, owner)
        log.info("container %s is adjusted by NRI plugins: %s", asked.id, ", ".join(sorted(who)))
        config, rest = _divided(asked.config, adjustments)
        metadata = dataclasses.replace(asked.metadata, adjustment=rest.SerializeToString())
        return Container(metadata, config), spec

    async def _forget(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        await self._relay.stop_container(pod, container)
        await self._relay.remove_container(pod, container)
        self._relay.forgotten(container.id)

    async def container_created(self, container: Container) -> None:
        """It is done."""
        await self._relay.container_created(*self._messages(container))

    async def start_container(self, container: Container) -> None:
        """Raises PluginRefused."""
        messages = self._messages(container)
        with trace.stage(_STAGE):
            await self._relay.start_container(*messages)

    async def container_started(self, container_id: str) -> None:
        """It is done."""
        container = self._services.store.containers.exact(container_id)
        if container is not None:
            await self._relay.container_started(*self._messages(container))

    async def update_container(
        self, container: Container, asked: api.LinuxContainerResources
    ) -> api.LinuxContainerResources:
        """What plugins make of it. Raises PluginRefused, PluginsDisagree, AdjustmentImpossible."""
        request = nri.UpdateContainerRequest(
            pod=pod_of(self._services, container),
            container=container_message(self._services, container),
            linux_resources=resources.from_cri(asked),
        )
        with trace.stage(_STAGE):
            who = await self._relay.update_container(request)
        if not who:
            return asked
        for _, where in resources.beyond_cri(request.linux_resources):
            text = "can't be changed of a container that exists"
            raise AdjustmentImpossible(who, f"linux.resources.{where}", text)
        log.info("container %s: its update is changed by NRI plugins: %s", container.id, who)
        made = resources.to_cri(request.linux_resources)
        made.oom_score_adj = asked.oom_score_adj
        return made

    async def container_updated(self, container_id: str) -> None:
        """It is done."""
        container = self._services.store.containers.exact(container_id)
        if container is not None:
            await self._relay.container_updated(*self._messages(container))

    async def remove_container(self, container: Container) -> None:
        """It is about to be forgotten; one that never ran is stopped for plugins, too."""
        relay = self._relay
        container = self._services.store.containers.exact(container.id) or container
        pod, message = self._messages(container)
        with trace.stage(_STAGE):
            if container.status.state is ContainerState.CREATED:
                await relay.stop_container(pod, message)
            await relay.told_of_end(container.id)
            await relay.remove_container(pod, message)

    async def told_of_end(self, container_id: str) -> None:
        """When plugins have been told of a container's end, if that has begun."""
        await self._relay.told_of_end(container_id)

    def _messages(self, container: Container) -> tuple[nri.PodSandbox, nri.Container]:
        return pod_of(self._services, container), container_message(self._services, container)


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
