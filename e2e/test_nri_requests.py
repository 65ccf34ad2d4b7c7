"""NRI plugins that disagree, refuse, want too much, are slow, die, and act by themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e import nri
from e2e.kubelet import Kubelet, Pod, refused, until
from e2e.node import Node
from e2e.nri import Plugins
from e2e.test_limits import MIB, control, resources
from e2e.test_nri import adjusting, limits, linux, value
from e2e.test_update import update

Code = grpc.StatusCode


@pytest.fixture
def plugins(node: Node) -> Iterator[Plugins]:
    with nri.plugins(node) as made:
        yield made


def test_two_plugins_that_disagree_are_named_and_nothing_is_left(
    kubelet: Kubelet, pod: Pod, plugins: Plugins
) -> None:
    wish = adjusting(env=[{"key": "WHO", "value": "me"}])
    plugins("one", "10", create=wish)
    plugins("two", "20", create=wish)
    error = refused(lambda: pod.container())
    assert error.code is Code.FAILED_PRECONDITION
    assert error.message == "NRI plugins 10-one and 20-two both tried to set Env WHO"
    assert kubelet.containers(pod_sandbox_id=pod.id) == []


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (linux(cgroups_path="/elsewhere"), "NRI plugin 10-much: linux.cgroups_path: "),
        (linux(net_devices={"eth7": {"name": "a/b"}}), "NRI plugin 10-much: linux.net_devices["),
        (linux(net_devices={"eth7": {"name": "x" * 16}}), "can't be the name of an interface"),
        (linux(sysctl={"kernel.panic": "1"}), "NRI plugin 10-much: linux.sysctl[kernel.panic]: "),
        (limits(blockio_class={"value": "gold"}), "blockio_class of NRI plugin 10-much"),
        (limits(pids={"limit": -7}), "linux.resources.pids.limit"),
        (limits(memory={"limit": value(-7)}), "memory"),
        (linux(devices=[{"path": "/dev/x", "type": "c", "major": 99999}]), "linux.devices[0]"),
        (linux(oom_score_adj=value(5000)), "oom"),
        (linux(scheduler={"policy": 77}), 'process.scheduler.policy: "77" is none of'),
        (linux(io_priority={"class": "IOPRIO_CLASS_RT", "priority": 9}), "process.ioPriority"),
        (adjusting(rlimits=[{"type": "RLIMIT_NONSENSE"}]), "RLIMIT_NONSENSE"),
        (adjusting(mounts=[{"destination": "/proc/x", "source": "/tmp"}]), "/proc"),
        (adjusting(CDI_devices=[{"name": "vendor.com/none=1"}]), "no CDI device vendor.com/none=1"),
        (linux(seccomp_policy={"default_action": "SCMP_ACT_DANCE"}), "SCMP_ACT_DANCE"),
    ],
)
def test_what_can_not_be_had_is_refused_by_name_when_it_is_created(
    kubelet: Kubelet, pod: Pod, plugins: Plugins, wish: dict[str, object], words: str
) -> None:
    plugins("much", create=wish)
    error = refused(lambda: pod.container())
    assert error.code in (Code.UNIMPLEMENTED, Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)
    assert words in error.message
    assert kubelet.containers(pod_sandbox_id=pod.id) == []


def test_a_plugin_may_refuse_and_nothing_is_left(kubelet: Kubelet, plugins: Plugins) -> None:
    guard = plugins("guard", refuse={"run_pod": "no room"})
    before = len(kubelet.sandboxes())
    error = refused(lambda: kubelet.pod())
    assert error.code is Code.FAILED_PRECONDITION
    assert error.message == "NRI plugin 10-guard refuses RunPodSandbox: no room"
    assert len(kubelet.sandboxes()) == before
    (told,) = guard.heard("run_pod")
    assert guard.calls(told["pod"]) == ["run_pod", "stop_pod", "remove_pod"]
    guard.wants(refuse={"create": "not this one", "start": "not now"})
    pod = kubelet.pod()
    assert "refuses CreateContainer: not this one" in refused(lambda: pod.container()).message
    guard.wants(refuse={"start": "not now"})
    container = pod.container()
    assert "refuses StartContainer: not now" in refused(container.start).message
    status = container.status()
    assert (status.state, status.reason) == (api.CONTAINER_EXITED, "StartError")
    guard.wants(refuse={"update": "as it is"})
    running = pod.container()
    assert (
        "refuses UpdateContainer: as it is"
        in refused(lambda: update(running, cpu_shares=7)).message
    )


def test_an_update_is_what_plugins_make_of_it(pod: Pod, plugins: Plugins) -> None:
    container = pod.container(linux=resources(memory_limit_in_bytes=100 * MIB)).start()
    other = pod.container(linux=resources(memory_limit_in_bytes=100 * MIB)).start()
    halved = {"resources": {"memory": {"limit": value(50 * MIB)}}}
    wishes = [
        {"container_id": container.id, "linux": halved},
        {"container_id": other.id, "linux": halved},
    ]
    plugins("half", update={"update": wishes})
    update(container, memory_limit_in_bytes=90 * MIB)
    for one in (container, other):
        assert control(one, "memory", "memory.limit_in_bytes", "memory.max") == str(50 * MIB)
        assert one.status().resources.linux.memory_limit_in_bytes == 50 * MIB


def test_a_pods_resources_are_told_and_may_be_refused(kubelet: Kubelet, plugins: Plugins) -> None:
    scribe = plugins("scribe")
    pod = kubelet.pod()
    request = api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod.id)
    request.resources.cpu_shares = 5

    def ask() -> None:
        name = "UpdatePodSandboxResources"
        kubelet.client.call(name, request, api.UpdatePodSandboxResourcesResponse)

    ask()
    assert scribe.calls(pod.id)[1:] == ["update_pod", "post_update_pod"]
    scribe.wants(refuse={"update_pod": "not now"})
    assert "refuses UpdatePodSandbox: not now" in refused(ask).message


def test_a_plugin_updates_and_evicts_containers_unasked(pod: Pod, plugins: Plugins) -> None:
    first, second = pod.container().start(), pod.container().start()
    scribe = plugins("free")
    wish: dict[str, Any] = {"resources": {"memory": {"limit": value(64 * MIB)}}}
    failed = scribe.unasked(
        update=[
            {"container_id": first.id, "linux": wish},
            {"container_id": "f" * 64, "linux": wish},
            {"container_id": second.id, "linux": {"resources": {"rdt_class": {"value": "x"}}}},
        ]
    )
    assert failed == ["f" * 64, second.id]
    assert control(first, "memory", "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert scribe.calls(first.id) == []  # its own wishes are not told to it
    scribe.unasked(evict=[{"container_id": second.id, "reason": "too loud"}])
    assert second.wait().exit_code == 137
    assert first.status().state == api.CONTAINER_RUNNING


def test_a_slow_plugin_costs_its_time_once_and_nobody_else_waits(
    kubelet: Kubelet, node: Node, pod: Pod, plugins: Plugins
) -> None:
    slow = plugins("slow", sleep={"create": 60})
    after = plugins("after", "20")
    took: list[float] = []

    def create() -> None:
        began = time.monotonic()
        pod.container()
        took.append(time.monotonic() - began)

    thread = threading.Thread(target=create)
    thread.start()
    until(lambda: bool(slow.heard("create")), "it is asked")
    longest = 0.0
    while thread.is_alive():
        began = time.monotonic()
        kubelet.containers()
        node.client.call("Status", api.StatusRequest(), api.StatusResponse)
        longest = max(longest, time.monotonic() - began)
    thread.join()
    assert 1.5 < took[0] < 5
    assert longest < 1.0
    assert nri.connected(node) == ["20-after"]
    assert after.heard("create")
    log = (node.directory / "logs/daemon.log").read_text()
    assert "NRI plugin 10-slow is dropped: it did not answer CreateContainer within 2 s" in log
    assert slow.process is not None
    slow.process.process.wait(10)  # its connection has ended, and so does it


def test_a_plugin_that_dies_in_the_middle_fails_nothing(pod: Pod, plugins: Plugins) -> None:
    plugins("mortal", die=["create"])
    assert pod.container().start().status().state == api.CONTAINER_RUNNING


def test_a_validator_has_the_last_word(kubelet: Kubelet, pod: Pod, plugins: Plugins) -> None:
    plugins("wisher", create=adjusting(env=[{"key": "A", "value": "1"}]))
    judge = plugins("judge", "90", validate=True, refuse={"validate": "I object"})
    error = refused(lambda: pod.container())
    assert error.message == "NRI plugin 90-judge rejects the adjustments: I object"
    judge.wants()
    assert pod.container().start().shell("cat /proc/1/environ").count("A=1") == 1
