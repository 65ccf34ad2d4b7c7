"""ListMetricDescriptors, ListPodSandboxMetrics: what kubelet shows at /metrics/cadvisor.

A pod has its network's metrics (container "POD", as the sandbox was called when it was a container)
and its cgroup's (no container's name, as cAdvisor has it); then come its containers that run. What
can't be read is left out, and keeps nothing else from being told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.rpc import metric_families
from cri.rpc.metric_families import Facts
from cri.rpc.sandbox_stats import Pods, traffic_of
from cri.store.sandbox import SandboxState
from runtime.usage import block_device

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container
    from cri.store.sandbox import Sandbox
    from image.writable import FileSystem
    from network.result import Traffic
    from runtime.usage import Detail, Processes, Usage

log = logging.getLogger(__name__)

POD = "POD"  # the container whose metrics are the pod's network's


async def list_metric_descriptors(
    services: Services, request: api.ListMetricDescriptorsRequest
) -> api.ListMetricDescriptorsResponse:
    """The same as long as the daemon lives: kubelet asks once."""
    return api.ListMetricDescriptorsResponse(descriptors=metric_families.descriptors())


async def list_pod_sandbox_metrics(
    services: Services, request: api.ListPodSandboxMetricsRequest
) -> api.ListPodSandboxMetricsResponse:
    """Of all pods that are ready."""
    return api.ListPodSandboxMetricsResponse(pod_metrics=await metrics_of(services))


async def metrics_of(services: Services) -> list[api.PodSandboxMetrics]:
    """Of all pods that are ready, one by one, for answers that are streams."""
    sandboxes = [
        sandbox
        for sandbox in services.store.sandboxes.all()
        if sandbox.status.state is SandboxState.READY
    ]
    look = await _look(services, sandboxes)
    found = []
    for sandbox in sandboxes:
        found.append(look.pod(sandbox))
        await asyncio.sleep(0)  # a pod takes a third of a millisecond
    return found


@dataclass(frozen=True, slots=True)
class _Look:
    """All numbers at one moment, by cgroup; traffic: by sandbox id and interface."""

    services: Services
    pods: Pods
    usages: Mapping[str, Usage]
    details: Mapping[str, Detail]
    processes: Mapping[str, Processes]
    traffic: Mapping[str, Mapping[str, Traffic]]
    disk: FileSystem | None

    def pod(self, sandbox: Sandbox) -> api.PodSandboxMetrics:
        """A pod with its containers."""
        metadata, cgroup = sandbox.config.metadata, sandbox.metadata.cgroup_parent
        whose = metadata.name, metadata.namespace
        metrics = metric_families.network_metrics(
            self.traffic.get(sandbox.id, {}),
            (sandbox.id, sandbox.id, "", POD, *whose),
            time.time_ns(),
        )
        usage = self.usages.get(cgroup)
        if usage is not None:
            facts = Facts(usage, block_device, self.details.get(cgroup))
            metrics += metric_families.metrics(facts, (cgroup, "", "", "", *whose))
        containers = self.pods.containers[sandbox.id]
        made = (self._container(container, whose) for container in containers)
        return api.PodSandboxMetrics(
            pod_sandbox_id=sandbox.id,
            metrics=metrics,
            container_metrics=[one for one in made if one is not None],
        )

    def _container(
        self, container: Container, whose: tuple[str, str]
    ) -> api.ContainerMetrics | None:
        """None for one that doesn't run, or not any more."""
        cgroup = self.pods.cgroups[container.id]
        usage = self.usages.get(cgroup)
        if usage is None:
            return None
        facts = Facts(
            usage,
            block_device,
            detail=self.details.get(cgroup),
            processes=self.processes.get(cgroup),
            written=self.services.images.writable.find(container.id),
            disk=self.disk,
            started_at=container.status.started_at,
        )
        config, image = container.config, container.metadata.image_ref
        labels = cgroup, container.id, image, config.metadata.name, *whose
        return api.ContainerMetrics(
            container_id=container.id, metrics=metric_families.metrics(facts, labels)
        )


async def _look(services: Services, sandboxes: Sequence[Sandbox]) -> _Look:
    pods = Pods.of(services, sandboxes)
    cgroups = pods.all_cgroups()
    running = [cgroup for cgroup in pods.cgroups.values() if cgroup]
    usages, details, processes, traffic = await asyncio.gather(
        services.runtime.usages.usages(cgroups),
        services.runtime.usages.details(cgroups),
        services.runtime.usages.processes(running),
        traffic_of(services),
    )
    try:
        disk = services.images.writable.file_system()
    except OSError as error:
        log.warning("the file system of containers can't be looked at: %s", error)
        disk = None
    return _Look(services, pods, usages, details, processes, traffic, disk)
