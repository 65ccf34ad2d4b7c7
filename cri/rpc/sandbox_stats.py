"""PodSandboxStats, ListPodSandboxStats, StreamPodSandboxStats: what pods and their containers use.

CPU and memory are the pod's cgroup's, network is the pod's interface's, and the processes are those
of its containers. A pod that isn't ready has its attributes and its containers'.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.rpc import container_stats, usage_messages
from cri.rpc.batches import batches
from cri.store.sandbox import SandboxState
from network.errors import NetworkFault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cri.rpc.services import Services
    from cri.store.container import Container
    from cri.store.sandbox import Sandbox
    from network.result import Traffic
    from runtime.usage import Usage

log = logging.getLogger(__name__)

_STATS, _LINUX, _CONTAINERS = 1, 2, 5  # fields: of the responses, PodSandboxStats, its `linux`


async def pod_sandbox_stats(services: Services, request: api.PodSandboxStatsRequest) -> bytes:
    """A serialised PodSandboxStatsResponse. Raises SandboxNotFound."""
    sandbox = services.store.sandboxes.get(request.pod_sandbox_id)
    return usage_messages.field(_STATS, (await _pieces(services, [sandbox]))[0])


async def list_pod_sandbox_stats(
    services: Services, request: api.ListPodSandboxStatsRequest
) -> bytes:
    """A serialised ListPodSandboxStatsResponse."""
    return b"".join(await frames_of(services, request.filter))


async def stream_pod_sandbox_stats(
    services: Services, request: api.StreamPodSandboxStatsRequest
) -> AsyncGenerator[bytes, None]:
    """Serialised StreamPodSandboxStatsResponses: the same, in several messages."""
    for batch in batches(await frames_of(services, request.filter)):
        yield batch


async def frames_of(services: Services, wanted: api.PodSandboxStatsFilter) -> list[bytes]:
    """Each a serialised response of one pod, whether answered at once or as a stream."""
    found = await _pieces(services, _select(services, wanted))
    return [usage_messages.field(_STATS, piece) for piece in found]


def _select(services: Services, wanted: api.PodSandboxStatsFilter) -> list[Sandbox]:
    """As ListPodSandbox understands its filter."""
    return services.store.sandboxes.select(
        api.PodSandboxFilter(id=wanted.id, label_selector=wanted.label_selector)
    )


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods and their containers at one moment. cgroups: of the containers, "" for who runs not."""

    sandboxes: Sequence[Sandbox]
    containers: Mapping[str, Sequence[Container]]  # by sandbox id
    cgroups: Mapping[str, str]  # by container id

    @classmethod
    def of(cls, services: Services, sandboxes: Sequence[Sandbox]) -> Pods:
        """With the containers of these sandboxes."""
        containers: dict[str, list[Container]] = {sandbox.id: [] for sandbox in sandboxes}
        cgroups = {}
        for container in services.store.containers.all():
            siblings = containers.get(container.metadata.sandbox_id)
            if siblings is not None:
                siblings.append(container)
                cgroups[container.id] = container_stats.cgroup_of(services, container)
        return cls(sandboxes, containers, cgroups)

    def running(self, sandbox: Sandbox) -> list[str]:
        """The cgroups of its containers that run."""
        found = (self.cgroups[container.id] for container in self.containers[sandbox.id])
        return [cgroup for cgroup in found if cgroup]

    def all_cgroups(self) -> list[str]:
        """Those of pods that are ready, and of containers that run; each once."""
        ready = [one for one in self.sandboxes if one.status.state is SandboxState.READY]
        pods = [one.metadata.cgroup_parent for one in ready]
        return list(dict.fromkeys(filter(None, (*pods, *self.cgroups.values()))))


async def traffic_of(services: Services) -> Mapping[str, Mapping[str, Traffic]]:
    """By sandbox id and interface. A network that can't say keeps nobody from the other numbers."""
    try:
        return await services.network.traffic()
    except (NetworkFault, OSError) as error:
        log.warning("pods' network counters can't be read: %s", error)
        return {}


async def _pieces(services: Services, sandboxes: Sequence[Sandbox]) -> list[bytes]:
    pods = Pods.of(services, sandboxes)
    running = [cgroup for cgroup in pods.cgroups.values() if cgroup]
    usages, counts, traffic = await asyncio.gather(
        services.runtime.usages.usages(pods.all_cgroups()),
        services.runtime.usages.counts(running),
        traffic_of(services),
    )
    found = []
    for sandbox in sandboxes:
        containers = pods.containers[sandbox.id]
        cgroups = [pods.cgroups[container.id] for container in containers]
        parts = await container_stats.made(services, containers, cgroups, usages)
        linux = b""
        if sandbox.status.state is SandboxState.READY:
            processes = sum(counts.get(cgroup, 0) for cgroup in pods.running(sandbox))
            usage = usages.get(sandbox.metadata.cgroup_parent)
            linux = _linux(usage, processes, traffic.get(sandbox.id))
        linux += b"".join(usage_messages.field(_CONTAINERS, part) for part in parts)
        found.append(sandbox.attributes + usage_messages.field(_LINUX, linux))
        await asyncio.sleep(0)
    return found


def _linux(usage: Usage | None, processes: int, traffic: Mapping[str, Traffic] | None) -> bytes:
    """The part of LinuxPodSandboxStats that is the pod's own."""
    now = time.time_ns()
    return api.LinuxPodSandboxStats(
        cpu=None if usage is None else usage_messages.cpu(usage),
        memory=None if usage is None else usage_messages.memory(usage),
        io=None if usage is None else usage_messages.io(usage),
        network=None if traffic is None else usage_messages.network(traffic, now),
        process={"timestamp": now, "process_count": {"value": processes}},
    ).SerializeToString()
