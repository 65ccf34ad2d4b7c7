"""Stats and metrics by their handlers: real processes, parts that fail."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from typing import TYPE_CHECKING

import pytest

from cri.api import api_pb2 as api
from cri.errors import ContainerNotFound, SandboxNotFound
from cri.rpc import container_stats, sandbox_metrics, sandbox_stats
from cri.store.container import ContainerState
from cri.tests.pods import FOREVER, Node, eventually
from image.writable import Occupancy
from network.result import Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.root


async def containers(node: Node, **filters: str) -> dict[str, api.ContainerStats]:
    wanted = api.ContainerStatsFilter(**filters)  # type: ignore[arg-type]  # fields by name
    request = api.ListContainerStatsRequest(filter=wanted)
    answer = await container_stats.list_container_stats(node.services, request)
    stats = api.ListContainerStatsResponse.FromString(answer).stats
    return {one.attributes.id: one for one in stats}


async def pods(node: Node) -> dict[str, api.PodSandboxStats]:
    request = api.ListPodSandboxStatsRequest()
    answer = await sandbox_stats.list_pod_sandbox_stats(node.services, request)
    stats = api.ListPodSandboxStatsResponse.FromString(answer).stats
    return {one.attributes.id: one for one in stats}


async def metrics(node: Node) -> dict[str, api.PodSandboxMetrics]:
    request = api.ListPodSandboxMetricsRequest()
    answer = await sandbox_metrics.list_pod_sandbox_metrics(node.services, request)
    found = api.ListPodSandboxMetricsResponse.FromString(answer).pod_metrics
    return {one.pod_sandbox_id: one for one in found}


def kept_open(node: Node) -> Sequence[str]:
    """This process's descriptors of files in the node's cgroups."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if f"{node.cgroup}/" in target:
            found.append(target)
    return found


async def vanish(node: Node, container_id: str) -> None:
    """A container whose end the daemon hasn't heard of: the record says that it runs."""
    status = node.services.store.containers.get(container_id).status
    await node.services.runtime.remove_container(
        node.services.store.containers.get(container_id).metadata.sandbox_id, container_id
    )
    found = node.services.store.containers.get(container_id)
    object.__setattr__(found, "status", status)
    assert found.status.state is ContainerState.RUNNING


async def test_a_container_that_vanished_has_its_attributes_and_the_others_all(node: Node) -> None:
    sandbox_id = await node.run()
    staying = await node.running(sandbox_id, *FOREVER, name="staying")
    gone = await node.running(sandbox_id, *FOREVER, name="gone")
    assert all(one.HasField("cpu") for one in (await containers(node)).values())
    await vanish(node, gone)
    found = await containers(node)
    assert found[staying].cpu.usage_core_nano_seconds.value > 0
    assert found[gone].attributes.metadata.name == "gone"
    assert not found[gone].HasField("cpu")
    assert node.services.store.containers.get(gone).status.state is ContainerState.RUNNING
    pod = (await pods(node))[sandbox_id]
    assert pod.linux.process.process_count.value == 1
    assert len(pod.linux.containers) == 2
    told = (await metrics(node))[sandbox_id]
    assert [one.container_id for one in told.container_metrics] == [staying]


async def test_a_network_that_can_not_count_spoils_nothing_else(node: Node) -> None:
    sandbox_id = await node.run()
    await node.running(sandbox_id, *FOREVER)
    node.network.counted = Traffic(rx_bytes=5, tx_bytes=6)
    linux = (await pods(node))[sandbox_id].linux
    assert linux.network.default_interface.tx_bytes.value == 6
    node.network.traffic_error = OSError(16, "busy")
    linux = (await pods(node))[sandbox_id].linux
    assert not linux.HasField("network")
    assert linux.cpu.usage_core_nano_seconds.value > 0
    told = (await metrics(node))[sandbox_id]
    assert not any(one.name.startswith("container_network") for one in told.metrics)
    assert len(told.container_metrics) == 1


async def test_a_disk_that_can_not_be_looked_at_spoils_nothing_else(node: Node) -> None:
    sandbox_id = await node.run()
    await node.running(sandbox_id, *FOREVER)
    node.images.writable.error = OSError(5, "input/output error")
    (one,) = (await metrics(node))[sandbox_id].container_metrics
    names = {metric.name for metric in one.metrics}
    assert "container_memory_rss" in names
    assert "container_fs_limit_bytes" not in names


async def test_what_was_written_is_told_with_the_time_at_which_it_was_counted(node: Node) -> None:
    sandbox_id = await node.run()
    container_id = await node.running(sandbox_id, *FOREVER)
    then = time.time_ns() - 60 * 10**9
    node.images.writable.written[container_id] = Occupancy(4096, 7, True, then, 0.1)
    layer = (await containers(node))[container_id].writable_layer
    assert (layer.used_bytes.value, layer.inodes_used.value, layer.timestamp) == (4096, 7, then)
    assert layer.fs_id.mountpoint == "/var/lib/podwright"


async def test_descriptors_go_with_the_container_and_with_the_pod(node: Node) -> None:
    sandbox_id = await node.run()
    container_id = await node.running(sandbox_id, "sh", "-c", "echo ready; sleep 1000")
    await node.until_logged("ready")
    await pods(node)
    await metrics(node)
    assert any(f"/{container_id}/" in path for path in kept_open(node))
    await node.stop_container(container_id, 0)
    await node.ended(container_id)
    await eventually(lambda: not any(f"/{container_id}/" in path for path in kept_open(node)))
    assert kept_open(node)
    await node.stop_pod(sandbox_id)
    await eventually(lambda: not kept_open(node))
    await node.remove_pod(sandbox_id)
    assert node.leftovers() == []


async def test_a_pod_of_our_own_cgroup_parent_is_counted(node: Node) -> None:
    cgroup = dataclasses.replace(node.services.config.cgroup, parent=node.cgroup)
    configured = dataclasses.replace(node.services.config, cgroup=cgroup)
    node.services = dataclasses.replace(node.services, config=configured)
    config = node.sandbox_config()
    config.linux.cgroup_parent = ""
    sandbox_id = await node.run(config)
    await node.running(sandbox_id, *FOREVER)
    linux = (await pods(node))[sandbox_id].linux
    assert linux.cpu.usage_core_nano_seconds.value > 0
    assert linux.memory.working_set_bytes.value > 0
    await node.remove_pod(sandbox_id)
    await eventually(lambda: not kept_open(node))


async def test_a_pod_without_containers_is_told_of(node: Node) -> None:
    sandbox_id = await node.run()
    linux = (await pods(node))[sandbox_id].linux
    assert linux.process.process_count.value == 0
    assert not linux.containers
    assert (await metrics(node))[sandbox_id].container_metrics == []


async def test_many_callers_at_once_get_the_same_numbers(node: Node) -> None:
    sandbox_id = await node.run()
    container_id = await node.running(sandbox_id, *FOREVER)
    answers = await asyncio.gather(*(containers(node) for _ in range(20)))
    timestamps = {answer[container_id].cpu.timestamp for answer in answers}
    assert len(timestamps) == 1


async def test_ids_may_be_cut_short_and_must_mean_one(node: Node) -> None:
    sandbox_id = await node.run()
    container_id = await node.running(sandbox_id, *FOREVER)
    request = api.ContainerStatsRequest(container_id=container_id[:10])
    answer = await container_stats.container_stats(node.services, request)
    assert api.ContainerStatsResponse.FromString(answer).stats.attributes.id == container_id
    by_pod = api.PodSandboxStatsRequest(pod_sandbox_id=sandbox_id[:10])
    answer = await sandbox_stats.pod_sandbox_stats(node.services, by_pod)
    assert api.PodSandboxStatsResponse.FromString(answer).stats.attributes.id == sandbox_id
    for unknown in ("", "nobody"):
        with pytest.raises(ContainerNotFound):
            await container_stats.container_stats(
                node.services, api.ContainerStatsRequest(container_id=unknown)
            )
        with pytest.raises(SandboxNotFound):
            await sandbox_stats.pod_sandbox_stats(
                node.services, api.PodSandboxStatsRequest(pod_sandbox_id=unknown)
            )


async def test_a_filter_that_means_nobody_chooses_nobody(node: Node) -> None:
    sandbox_id = await node.run()
    await node.running(sandbox_id, *FOREVER)
    assert await containers(node, id="nobody") == {}
    assert await containers(node, pod_sandbox_id="nobody") == {}
    assert len(await containers(node, pod_sandbox_id=sandbox_id[:9])) == 1
