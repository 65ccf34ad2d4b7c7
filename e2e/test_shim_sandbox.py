"""Pods whose sandbox a shim makes (containerd's sandbox service), as kubelet sees them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e import test_handlers
from e2e.handlers import CANDIDATES, Candidate
from e2e.kubelet import Kubelet, Pod, refused, until
from e2e.node import Node
from runtime.tests import sandbox_shim
from runtime.tests.shims import alive

KILL = signal.SIGKILL
(PLAIN,) = (one for one in CANDIDATES if one.name == "shim")
pytestmark = pytest.mark.skipif(not PLAIN.path, reason="needs `apt-get install containerd`")


@pytest.fixture(scope="module")
def told(node: Node, busybox: str) -> Iterator[Path]:
    """Where the shim of the handler "box" writes down what it is asked; "plain" has no service."""
    directory = node.directory / "box"
    path = sandbox_shim.program(str(PLAIN.path), directory)
    table = '\n[runtime.handlers.{}]\ntype = "shim"\npath = "{}"\nsandbox = "api"\n'
    node.more_config = (
        table.format("box", path)
        + 'pod_annotations = ["org.example.*"]\n'
        + table.format("plain", PLAIN.path)
    )
    node.restart_daemon()
    yield directory
    node.more_config = ""
    node.restart_daemon()
    shutil.rmtree(directory)


def sandbox_pid(told: Path) -> int:
    return int((told / "pid").read_text())


def test_a_pods_whole_life_is_that_of_any_other(kubelet: Kubelet, told: Path) -> None:
    candidate = Candidate("box")
    test_handlers.test_a_pods_whole_life_is_the_same_with_every_runtime(kubelet, candidate)
    assert (told / "calls").read_text().split()[-2:] == ["StopSandbox", "ShutdownSandbox"]
    assert not alive(sandbox_pid(told))


def test_the_shim_is_told_of_the_pod_what_the_node_lets_through(
    kubelet: Kubelet, told: Path
) -> None:
    config = kubelet.config(
        annotations={"org.example.x": "1", "io.kubernetes.cri.sandbox-name": "another"},
        dns_config=api.DNSConfig(servers=["10.0.0.53"]),
    )
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    pod = kubelet.pod(config, handler="box")
    said = json.loads((told / "sandbox.json").read_text())
    assert said["netns"] == str(kubelet.node.directory / "netns" / f"cni-{pod.id}")
    heard = api.PodSandboxConfig.FromString(base64.b64decode(said["options"]))
    annotations = {
        "org.example.x": "1",
        "io.kubernetes.cri.sandbox-name": config.metadata.name,
        "io.kubernetes.cri.sandbox-namespace": "e2e",
        "io.kubernetes.cri.sandbox-uid": config.metadata.uid,
        "io.kubernetes.cri.sandbox-cpu-period": "0",
        "io.kubernetes.cri.sandbox-cpu-quota": "0",
        "io.kubernetes.cri.sandbox-cpu-shares": "0",
        "io.kubernetes.cri.sandbox-memory": str(64 << 20),
    }
    assert heard.annotations == annotations
    assert said["annotations"].items() >= annotations.items()
    heard.ClearField("annotations")
    config.ClearField("annotations")
    assert heard == config

    config = kubelet.config()
    config.linux.security_context.namespace_options.network = api.NODE
    pod = kubelet.pod(config, handler="box")
    said = json.loads((told / "sandbox.json").read_text())
    assert (said["id"], said["netns"]) == (pod.id, "")
    network = kubelet.node.run("readlink", "/proc/self/ns/net").stdout.strip()
    assert pod.container().start().shell("readlink /proc/self/ns/net") == network


def test_a_shim_without_the_service_fails_the_pod_and_says_what_to_do(
    kubelet: Kubelet, told: Path
) -> None:
    before = kubelet.node.inventory()
    said = refused(lambda: kubelet.pod(handler="plain"))
    assert said.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "plain start: CreateSandbox: " in said.message
    assert 'in [runtime.handlers.plain] set sandbox = "task" or "none"' in said.message
    assert kubelet.sandboxes() == []
    assert kubelet.node.leaks(before) == []


def lost(pod: Pod) -> str:
    """Why a pod is not ready, once it is not."""
    until(lambda: pod.status().state == api.SANDBOX_NOTREADY, "the pod is lost")
    return str(json.loads(pod.response(verbose=True).info["info"])["reason"])


def test_a_pod_is_not_ready_when_its_sandbox_has_ended(kubelet: Kubelet, told: Path) -> None:
    before = kubelet.node.inventory()
    pod = kubelet.pod(handler="box")
    container = pod.container(["sleep", "123456"]).start()
    os.kill(sandbox_pid(told), KILL)
    assert lost(pod) == "the pod's sandbox has ended, with status 137"
    status = container.status()
    assert (status.exit_code, status.reason) == (137, "Error")
    assert "the pod's sandbox has ended" in status.message
    pod.remove()
    kubelet.pods.remove(pod)
    assert kubelet.node.leaks(before) == []
    assert (told / "calls").read_text().split()[-1] == "delete"


def test_a_sandbox_that_ends_while_no_daemon_is_there_is_noticed_by_the_next(
    kubelet: Kubelet, told: Path
) -> None:
    node = kubelet.node
    pod = kubelet.pod(handler="box")
    container = pod.container(["sleep", "123456"]).start()
    assert node.daemon is not None
    node.daemon.kill()
    os.kill(sandbox_pid(told), KILL)
    until(lambda: not alive(sandbox_pid(told)), "the sandbox is gone")
    node.start_daemon()
    assert lost(pod) == "the pod's sandbox has ended, with status 137"
    assert container.wait().exit_code == 137


def test_nothing_is_left_of_a_pod_whose_monitor_was_killed(kubelet: Kubelet, told: Path) -> None:
    test_handlers.test_nothing_is_left_of_a_pod_whose_monitor_was_killed(kubelet, Candidate("box"))
    assert not alive(sandbox_pid(told))
