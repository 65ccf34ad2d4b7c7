"""NRI plugins that die in each call, and the daemon, killed in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from cri.api import api_pb2 as api
from cri.cli.client import CallFailed
from e2e import nri
from e2e.kubelet import Container, Kubelet, until
from e2e.node import Node
from e2e.nri import Plugins, Process
from e2e.test_nri import adjusting
from e2e.test_update import update


@pytest.fixture
def plugins(node: Node) -> Iterator[Plugins]:
    with nri.plugins(node) as made:
        yield made


def life(kubelet: Kubelet) -> Container:
    """All that plugins hear of."""
    pod = kubelet.pod()
    kubelet.client.call(
        "UpdatePodSandboxResources",
        api.UpdatePodSandboxResourcesRequest(
            pod_sandbox_id=pod.id, resources=api.LinuxContainerResources(cpu_shares=77)
        ),
        api.UpdatePodSandboxResourcesResponse,
    )
    container = pod.container().start()
    update(container, cpu_shares=77)
    assert container.shell("echo it runs") == "it runs"
    container.stop()
    container.remove()
    pod.stop()
    pod.remove()
    return container


CALLS = (
    *("run_pod", "update_pod", "post_update_pod", "create", "post_create", "start", "post_start"),
    *("update", "post_update", "stop", "remove", "stop_pod", "remove_pod"),
)


@pytest.mark.parametrize("call", CALLS)
def test_a_plugin_that_dies_in_a_call_fails_no_request(
    kubelet: Kubelet, node: Node, plugins: Plugins, call: str
) -> None:
    mortal = plugins("mortal", "10", die=[call])
    after = plugins("after", "20")
    life(kubelet)
    assert mortal.heard()[-1]["call"] == call
    assert nri.connected(node) == ["20-after"]
    assert after.heard(call)
    again = plugins("mortal", "10")
    life(kubelet)
    assert again.heard(call)


def killed_in(node: Node, plugin: Process, call: str, request: Callable[[], object]) -> None:
    """The daemon ends while a plugin is asked; it has begun anew when this returns."""

    def ask() -> None:
        with suppress(CallFailed):
            request()

    plugin.wants(sleep={call: 60})
    before = len(plugin.heard(call))
    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: len(plugin.heard(call)) > before, f"{call} is asked")
    assert node.daemon is not None
    os.kill(node.daemon.process.pid, signal.SIGKILL)
    thread.join()
    node.restart_daemon(how=signal.SIGKILL)
    assert plugin.process is not None
    plugin.process.stop()


def synchronized(plugin: Process) -> tuple[list[str], dict[str, str]]:
    """The pods, and containers with their state, that it was told of last."""
    told = plugin.heard("synchronize")[-1]
    return told["pods"], {one["id"]: one["state"] for one in told["containers"]}


def test_who_comes_back_is_told_what_is_there_and_no_more(
    kubelet: Kubelet, node: Node, plugins: Plugins
) -> None:
    pod = kubelet.pod()
    running, created = pod.container().start(), pod.container()
    plugin = plugins("tenacious", create=adjusting(env=[{"key": "SEEN", "value": "1"}]))
    there = {running.id: "CONTAINER_RUNNING", created.id: "CONTAINER_CREATED"}
    killed_in(node, plugin, "create", pod.container)
    plugin.start()
    assert synchronized(plugin) == ([pod.id], there)  # that one never came to be
    assert len(kubelet.containers(pod_sandbox_id=pod.id)) == 2
    killed_in(node, plugin, "start", created.start)
    plugin.start(create=adjusting(env=[{"key": "SEEN", "value": "1"}]))
    assert synchronized(plugin) == ([pod.id], there)
    created.start()
    assert plugin.calls(created.id)[-2:] == ["start", "post_start"]
    third = pod.container(["sh", "-c", "echo $SEEN; sleep 1000"]).start()
    until(lambda: third.log() == ["1"], "it has what the plugin wants")
    killed_in(node, plugin, "stop", third.stop)
    plugin.start()
    pods, containers = synchronized(plugin)
    assert pods == [pod.id]
    assert containers == dict.fromkeys((running.id, created.id), "CONTAINER_RUNNING")
    killed_in(node, plugin, "run_pod", kubelet.pod)
    plugin.start()
    assert synchronized(plugin)[0] == [pod.id]
    third.remove()
    assert third.id not in {one.id for one in kubelet.containers()}
