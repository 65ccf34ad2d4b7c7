"""What the node's configuration says of runtime handlers, and what pods get of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.handlers import CANDIDATES, configured
from e2e.kubelet import Kubelet, refused, until
from e2e.node import Node
from e2e.test_container import security
from e2e.test_limits import MIB, control
from e2e.test_update import update

KILL = signal.SIGKILL


@pytest.fixture(scope="module")
def handlers_node(node: Node, busybox: str) -> Iterator[Node]:
    with configured(node):
        yield node


def test_status_tells_every_handler_and_what_it_can_do(
    kubelet: Kubelet, handlers_node: Node
) -> None:
    answer = handlers_node.client.call("Status", api.StatusRequest(), api.StatusResponse)
    features = {one.name: one.features for one in answer.runtime_handlers}
    assert {"", "podwright", "strict", "absent"} <= features.keys()
    assert features[""].recursive_read_only_mounts
    assert not features["absent"].recursive_read_only_mounts
    assert features["podwright"] == features["strict"] == features[""]
    assert not features["absent"].user_namespaces
    for one in CANDIDATES:
        if one.program and one.path and one.name in features:
            known = handlers_node.run(one.calls or one.path, "features").stdout
            assert not features[one.name].user_namespaces
            assert features[one.name].recursive_read_only_mounts == ('"rro"' in known)


def test_an_unknown_handler_is_refused_with_those_that_are_known(
    kubelet: Kubelet, handlers_node: Node
) -> None:
    said = refused(lambda: kubelet.pod(handler="kata"))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "'kata' is not configured" in said.message
    assert "'podwright'" in said.message


def test_a_program_that_is_missing_fails_its_pods_and_says_what_to_do(
    kubelet: Kubelet, handlers_node: Node
) -> None:
    container = kubelet.pod(handler="absent").container()
    assert "'/no/such/program' (`path` of the handler)" in refused(container.start).message
    mount = api.Mount(container_path="/m", host_path="/tmp", readonly=True)
    mount.recursive_read_only = True
    pod = kubelet.pod(handler="absent")
    assert "doesn't know such mounts" in refused(lambda: pod.container(mounts=[mount])).message


def test_a_variant_of_the_embedded_runtime_holds_back_what_it_is_told_to(
    kubelet: Kubelet, handlers_node: Node
) -> None:
    config = kubelet.config()
    config.linux.security_context.privileged = True
    pod = kubelet.pod(config, handler="strict")
    linux = security(privileged=True)
    assert pod.run("test -e /dev/kmsg || echo none", linux=linux) == ["none"]
    assert pod.run("mkdir /sys/fs/cgroup/x 2>/dev/null || echo read-only", linux=linux) == [
        "read-only"
    ]


def test_an_update_before_the_start_keeps_what_the_handler_adds(
    kubelet: Kubelet, handlers_node: Node
) -> None:
    container = kubelet.pod(handler="based").container()
    update(container, memory_limit_in_bytes=64 * MIB)
    container.start()
    assert control(container, "pids", "pids.max", "pids.max") == "77"
    memory = control(container, "memory", "memory.limit_in_bytes", "memory.max")
    assert memory == str(64 * MIB)
    reserved = control(container, "memory", "memory.soft_limit_in_bytes", "memory.low")
    assert reserved == str(MIB)


def test_a_hook_of_the_handler_runs_without_a_daemon(kubelet: Kubelet, handlers_node: Node) -> None:
    container = kubelet.pod(handler="based").container(["sh", "-c", "sleep 1000; exit 7"]).start()
    pid = json.loads(container.response(verbose=True).info["info"])["pid"]
    assert handlers_node.daemon is not None
    os.kill(handlers_node.daemon.process.pid, KILL)
    handlers_node.daemon.process.wait()
    told = handlers_node.directory / "stopped"
    told.unlink(missing_ok=True)
    (sleep,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(sleep), KILL)
    until(lambda: told.exists() and told.read_text() != "", "the hook has run")
    state = json.loads(told.read_text())
    assert (state["id"], state["status"]) == (container.id, "stopped")
    handlers_node.start_daemon()
    assert container.wait().exit_code == 7
