"""Runtimes by RuntimeClass: one pod's life with every one that this machine can run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.handlers import CANDIDATES, Candidate, configured
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import REGISTRY, Node
from e2e.test_attach import attached
from e2e.test_container import security
from e2e.test_exec_stream import command
from e2e.test_limits import control, resources
from e2e.test_restart import monitor
from e2e.test_stats import stats

KILL = signal.SIGKILL


@pytest.fixture(scope="module")
def handlers_node(node: Node, busybox: str) -> Iterator[Node]:
    with configured(node):
        yield node


@pytest.fixture(params=CANDIDATES, ids=lambda one: one.name)
def candidate(request: pytest.FixtureRequest, handlers_node: Node) -> Candidate:
    one: Candidate = request.param
    if one.program and one.path is None:
        pytest.skip(f"{one.program} is not installed: `apt-get install {one.program}`")
    return one


def shared(kubelet: Kubelet, pod: Pod, name: str) -> api.Mount:
    directory = kubelet.node.directory / "volumes" / pod.id / name
    directory.mkdir(parents=True, exist_ok=True)
    return api.Mount(container_path="/shared", host_path=str(directory))


def served(node: Node, ip: str) -> bytes:
    """What a server in a pod answers to the node; b"" if nothing."""

    def fetch() -> bytes:
        with urllib.request.urlopen(f"http://{ip}:8080/", timeout=10) as answer:
            return bytes(answer.read())

    try:
        return node.inside(fetch)
    except OSError:
        return b""


def await_answer(container: Container, port: int) -> None:
    """Until a server on the pod's loopback answers. Again and again, and by nc, which waits for
    input before it reads: in Debian's runsc a read from a socket that is still empty may fail."""
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 {port}"
    until(lambda: b"served" in container.exec("sh", "-c", ask).stdout, "the server answers")


def test_a_pods_whole_life_is_the_same_with_every_runtime(
    kubelet: Kubelet, candidate: Candidate
) -> None:
    node = kubelet.node
    before = node.inventory()
    pod = kubelet.pod(handler=candidate.name)
    assert pod.status().runtime_handler == candidate.name
    volume = shared(kubelet, pod, "v")
    server = pod.container(
        ["sh", "-c", "echo served > /shared/index.html; exec httpd -f -p 8080 -h /shared"],
        mounts=[volume],
    ).start()
    script = (
        "trap 'echo stopping; exit 9' TERM; echo out; echo err >&2; cat /shared/index.html;"
        "while :; do sleep 0.05; done"
    )
    until(lambda: served(node, pod.ip) == b"served\n", "the node reaches the server")
    client = pod.container(["sh", "-c", script], mounts=[volume]).start()

    until(lambda: len(client.log()) == 3, "the log has everything")
    assert client.log("stdout") == ["out", "served"]
    assert client.log("stderr") == ["err"]
    await_answer(client, 8080)

    probe = client.exec("sh", "-c", "echo to stdout; echo to stderr >&2; exit 3")
    assert (probe.exit_code, probe.stdout, probe.stderr) == (3, b"to stdout\n", b"to stderr\n")
    assert "nosuch" in refused(lambda: client.exec("nosuch")).message
    late = refused(lambda: client.exec("sleep", "1000", timeout=1))
    assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED

    node.restart_daemon(how=KILL)
    await_answer(client, 8080)
    asked = time.monotonic()
    client.stop(grace=30)
    assert time.monotonic() - asked < 15
    status = client.wait()
    assert status.exit_code == 9
    assert 0 < status.created_at <= status.started_at <= status.finished_at
    assert client.log("stdout")[-1] == "stopping"

    assert pod.container(["sh", "-c", "exit 42"]).start().wait().exit_code == 42
    server.stop()
    assert server.status().exit_code == 137
    pod.remove()
    kubelet.pods.remove(pod)
    shutil.rmtree(node.directory / "volumes")
    assert node.leaks(before) == []


def test_a_command_on_a_terminal_is_a_conversation(kubelet: Kubelet, candidate: Candidate) -> None:
    container = kubelet.pod(handler=candidate.name).container().start()
    script = "test -t 0 && echo terminal; read line; echo got $line; exit 5"
    with command(container, "sh", "-c", script, tty=True) as session:
        session.until_said(b"terminal")
        session.send(b"words\n")
        session.until_said(b"got words")
        assert session.result().exit_code == 5


def test_a_container_with_a_terminal_can_be_attached_to(
    kubelet: Kubelet, candidate: Candidate
) -> None:
    pod = kubelet.pod(handler=candidate.name)
    container = pod.container(["sh"], tty=True, stdin=True).start()
    with attached(container, stdin=True, tty=True) as session:
        session.send(b"echo $((40+2)) lines; exit 6\n")
        session.until_said(b"42 lines")
    assert container.wait().exit_code == 6
    assert "42 lines" in "".join(container.log())


def test_who_takes_too_much_memory_is_killed_and_it_is_said(
    kubelet: Kubelet, candidate: Candidate
) -> None:
    pod = kubelet.pod(handler=candidate.name)
    limit = resources(memory_limit_in_bytes=candidate.memory)
    amount = 2 * candidate.memory
    eat = f"head -c {amount} /dev/zero | tail -c {amount} >/dev/null"
    status = pod.container(["sh", "-c", eat], linux=limit).start().wait(patience=60)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_statistics_and_new_limits_are_those_of_the_containers_cgroup(
    kubelet: Kubelet, candidate: Candidate
) -> None:
    pod = kubelet.pod(handler=candidate.name)
    limit = resources(memory_limit_in_bytes=candidate.memory)
    container = pod.container(linux=limit).start()
    found = stats(container)
    assert found.cpu.usage_core_nano_seconds.value > 0
    assert 0 < found.memory.working_set_bytes.value < candidate.memory
    more = api.LinuxContainerResources(memory_limit_in_bytes=2 * candidate.memory)
    request = api.UpdateContainerResourcesRequest(container_id=container.id, linux=more)
    kubelet.client.call("UpdateContainerResources", request, api.UpdateContainerResourcesResponse)
    set_to = control(container, "memory", "memory.limit_in_bytes", "memory.max")
    assert int(set_to) == 2 * candidate.memory


def test_a_start_that_fails_is_told_in_the_programs_own_words(
    kubelet: Kubelet, candidate: Candidate
) -> None:
    container = kubelet.pod(handler=candidate.name).container(["/no/such/command"])
    said = refused(container.start)
    assert said.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "/no/such/command" in said.message
    assert container.status().state == api.CONTAINER_EXITED


def test_the_user_of_the_image_is_looked_up_in_its_own_files(
    kubelet: Kubelet, candidate: Candidate
) -> None:
    image = kubelet.pull(f"{REGISTRY}/tests/user:1")
    pod = kubelet.pod(handler=candidate.name)
    container = pod.container(["sh", "-c", "id -u; echo $HOME"], image=api.ImageSpec(image=image))
    container.start()
    embedded = kubelet.pod().container(
        ["sh", "-c", "id -u; echo $HOME"], image=api.ImageSpec(image=image)
    )
    embedded.start().wait()
    status = container.wait()
    assert container.log() == embedded.log()
    assert status.user.linux.uid == embedded.status().user.linux.uid > 0


def test_containers_of_a_pod_share_their_processes_if_it_says_so(
    kubelet: Kubelet, candidate: Candidate
) -> None:
    if candidate.kernel_of_its_own:
        pytest.skip(f"{candidate.name}: each container has a kernel of its own")
    pod = kubelet.pod(kubelet.config(pid=api.POD), handler=candidate.name)
    first = pod.container(["sleep", "4321"]).start()
    second = pod.container().start()
    assert "sleep 4321" in second.shell("ps")
    second.shell("kill -9 $(pidof sleep | tr ' ' '\\n' | grep -v -x 1) || true")
    assert first.wait().exit_code == 137
    pod.stop()
    alone = kubelet.pod(handler=candidate.name)
    target = alone.container(["sleep", "4321"]).start()
    options = api.NamespaceOption(pid=api.TARGET, target_id=target.id)
    guest = alone.container(linux=security(namespace_options=options)).start()
    assert "sleep 4321" in guest.shell("ps")


def test_shared_memory_and_files_of_the_pod_are_the_containers(
    kubelet: Kubelet, candidate: Candidate
) -> None:
    pod = kubelet.pod(handler=candidate.name)
    writer, reader = pod.container().start(), pod.container().start()
    writer.shell("echo words > /dev/shm/file")
    assert reader.shell("cat /dev/shm/file; hostname; cat /etc/hostname").split() == [
        "words",
        pod.config.hostname,
        pod.config.hostname,
    ]


def test_mounts_travel_as_far_as_they_are_asked_to(kubelet: Kubelet, candidate: Candidate) -> None:
    if candidate.kernel_of_its_own:
        pytest.skip(f"{candidate.name}: each container has a kernel of its own")
    node = kubelet.node
    shared = node.directory / "travelling"
    shared.mkdir()
    node.run("mount", "-t", "tmpfs", "shared", str(shared))
    node.run("mount", "--make-shared", str(shared))
    node.run("mkdir", str(shared / "a"), str(shared / "b"))
    config = kubelet.config()
    config.linux.security_context.privileged = True
    both, inward = (
        api.Mount(container_path="/m", host_path=str(shared), propagation=propagation)
        for propagation in (api.PROPAGATION_BIDIRECTIONAL, api.PROPAGATION_HOST_TO_CONTAINER)
    )
    pod = kubelet.pod(config, handler=candidate.name)
    try:
        giver = pod.container(mounts=[both], linux=security(privileged=True)).start()
        taker = pod.container(mounts=[inward]).start()
        node.run("mount", "-t", "tmpfs", "x", str(shared / "a"))
        giver.shell("mount -t tmpfs y /m/b")
        count = "grep -c ' /m/[ab] ' /proc/self/mountinfo || true"
        assert (giver.shell(count), taker.shell(count)) == ("2", "2")
        assert str(shared / "b") in node.run("cat", "/proc/self/mountinfo").stdout
    finally:
        pod.stop()
        for path in (shared / "a", shared / "b", shared):
            node.run("umount", str(path))
        shared.rmdir()


def test_nothing_is_left_of_a_pod_whose_monitor_was_killed(
    kubelet: Kubelet, candidate: Candidate
) -> None:
    node = kubelet.node
    before = node.inventory()
    pod = kubelet.pod(handler=candidate.name)
    container = pod.container(["sleep", "123456"]).start()
    assert container.exec("true").exit_code == 0
    os.kill(monitor(pod), KILL)
    until(lambda: pod.status().state == api.SANDBOX_NOTREADY, "the pod is lost")
    pod.remove()
    kubelet.pods.remove(pod)
    assert node.leaks(before) == []


def test_a_handler_runs_the_hooks_that_a_device_by_name_wants(
    kubelet: Kubelet, handlers_node: Node, candidate: Candidate
) -> None:
    if candidate.kernel_of_its_own:
        pytest.skip("hooks are for runtimes that share the node's kernel")
    told = handlers_node.directory / "hook.json"
    hook = {"hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", f"cat > {told}"]}
    device = {"name": "0", "containerEdits": {"hooks": [hook], "env": ["GPU=0"]}}
    specs = handlers_node.directory / "cdi" / "etc"
    specs.mkdir(parents=True, exist_ok=True)
    content = {"cdiVersion": "0.7.0", "kind": "vendor.com/gpu", "devices": [device]}
    (specs / "gpu.json").write_text(json.dumps(content))
    asked = [api.CDIDevice(name="vendor.com/gpu=0")]
    pod = kubelet.pod(handler=candidate.name)
    container = pod.container(["sh", "-c", "echo $GPU"], CDI_devices=asked).start()
    container.wait()
    assert container.log() == ["0"]
    assert json.loads(told.read_text())["id"] == container.id
    shutil.rmtree(specs.parent)
    told.unlink()
