"""ListMetricDescriptors, ListPodSandboxMetrics, StreamPodSandboxMetrics: for /metrics/cadvisor.

A pod has its network's metrics (container "POD", as the sandbox was called when it was a container)
and its cgroup's (no container's name, as cAdvisor has it); then come its containers that run. What
can't be read is left out, and keeps nothing else from being told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.rpc import metric_families
from cri.rpc.batches import batches
from cri.rpc.metric_families import Facts
from cri.rpc.sandbox_stats import Pods, traffic_of
from cri.rpc.usage_messages import field
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

_METRICS, _CONTAINER = 1, 3  # fields: of both responses, of PodSandboxMetrics
POD = "POD"  # the container whose metrics are the pod's network's


async def list_metric_descriptors(
    services: Services, request: api.ListMetricDescriptorsRequest
) -> api.ListMetricDescriptorsResponse:
    """The same as long as the daemon lives: kubelet asks once."""
    return api.ListMetricDescriptorsResponse(descriptors=metric_families.descriptors())


async def list_pod_sandbox_metrics(
    services: Services, request: api.ListPodSandboxMetricsRequest
) -> bytes:
    """A serialised ListPodSandboxMetricsResponse, of all pods that are ready."""
    return b"".join([frame async for frame in frames_of(services)])


async def stream_pod_sandbox_metrics(
    services: Services, request: api.StreamPodSandboxMetricsRequest
) -> AsyncGenerator[bytes, None]:
    """Serialised StreamPodSandboxMetricsResponses: the same, in several messages."""
    for batch in batches([frame async for frame in frames_of(services)]):
        yield batch


async def frames_of(services: Services) -> AsyncIterator[bytes]:
    """Each a serialised response of one pod, whether answered at once or as a stream.

    A container has some sixty metrics, which take a tenth of a millisecond: others get the event
    loop in between.
    """
    sandboxes = [
        sandbox
        for sandbox in services.store.sandboxes.all()
        if sandbox.status.state is SandboxState.READY
    ]
    look = await _look(services, sandboxes)
    for sandbox in sandboxes:
        parts = [look.pod(sandbox)]
        for container in look.pods.containers[sandbox.id]:
            parts.append(look.container(sandbox, container))
            await asyncio.sleep(0)
        yield field(_METRICS, b"".join(parts))


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

    def pod(self, sandbox: Sandbox) -> bytes:
        """The part of a PodSandboxMetrics that is the pod's own."""
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
        made = api.PodSandboxMetrics(pod_sandbox_id=sandbox.id, metrics=metrics)
        return made.SerializeToString()

    def container(self, sandbox: Sandbox, container: Container) -> bytes:
        """The part of a PodSandboxMetrics that is a container's; of one that doesn't run, none."""
        cgroup = self.pods.cgroups[container.id]
        usage = self.usages.get(cgroup)
        if usage is None:
            return b""
        facts = Facts(
            usage,
            block_device,
            detail=self.details.get(cgroup),
            processes=self.processes.get(cgroup),
            written=self.services.images.writable.find(container.id),
            disk=self.disk,
            started_at=container.status.started_at,
        )
        image, name = container.metadata.image_ref, container.config.metadata.name
        pod = sandbox.config.metadata
        labels = cgroup, container.id, image, name, pod.name, pod.namespace
        made = api.ContainerMetrics(
            container_id=container.id, metrics=metric_families.metrics(facts, labels)
        )
        return field(_CONTAINER, made.SerializeToString())


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
