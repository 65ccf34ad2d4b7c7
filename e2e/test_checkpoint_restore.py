"""Containers that go on where another one was: from an archive, or an image."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from e2e import images
from e2e.checkpoints import (
    DEFAULT,
    counting,
    goes_on,
    members,
    nothing_is_left,
    restored,
    write,
)
from e2e.images import Entry, Layer
from e2e.kubelet import Container, Kubelet, refused, until
from e2e.node import REGISTRY, Node
from e2e.test_container import security


def test_a_container_goes_on_where_another_was(criu: Kubelet, archive: Path) -> None:
    first = counting(
        criu.pod(), "echo kept > /root/file; rm /etc/group", linux=security(seccomp=DEFAULT)
    )
    write(first, archive)
    said = len(members(archive)["container.log"].splitlines())
    second = restored(criu.pod(), archive, linux=security(seccomp=DEFAULT))
    assert second.status().state == api.CONTAINER_CREATED
    second.start()
    goes_on(second)
    assert abs(int(second.log()[0]) - said) <= 3
    assert second.shell("cat /root/file; ls /etc/group 2>/dev/null || echo gone") == "kept\ngone"
    nothing_is_left(criu.node)
    goes_on(first)


def test_a_file_that_was_deleted_is_still_open(criu: Kubelet, archive: Path) -> None:
    deleted = "echo kept > /root/file; exec 7< /root/file; rm /root/file"
    write(counting(criu.pod(), deleted), archive)
    container = restored(criu.pod(), archive).start()
    goes_on(container)
    assert container.shell("cat /proc/1/fd/7; ls /root") == "kept"


def test_a_restored_container_is_as_any_other(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    container = restored(criu.pod(), archive).start()
    goes_on(container)
    criu.node.restart_daemon(how=signal.SIGKILL)
    goes_on(container)
    assert container.status().state == api.CONTAINER_RUNNING
    container.log_path.rename(container.log_path.with_suffix(".old"))
    container.reopen_log()
    until(lambda: bool(container.log()), "it logs")
    request = api.ContainerStatsRequest(container_id=container.id)
    stats = criu.client.call("ContainerStats", request, api.ContainerStatsResponse).stats
    assert stats.memory.usage_bytes.value > 0
    container.stop()
    assert container.status().exit_code == 137


def test_its_end_is_told_with_its_own_exit_code(criu: Kubelet, archive: Path) -> None:
    script = "while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7"
    first = criu.pod().container(["sh", "-c", script]).start()
    until(lambda: first.shell("true") == "", "it runs")
    write(first, archive)
    second = restored(criu.pod(), archive).start()
    second.shell("touch /tmp/go")
    assert second.wait().exit_code == 7


def test_it_can_be_written_down_again(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    second = restored(criu.pod(), archive).start()
    goes_on(second)
    again = archive.with_name("again.tar")
    write(second, again)
    goes_on(restored(criu.pod(), again).start())


def test_it_waits_for_its_start_through_the_end_of_a_daemon(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    container = restored(criu.pod(), archive)
    criu.node.restart_daemon(how=signal.SIGKILL)
    goes_on(container.start())


def test_one_that_is_never_started_leaves_nothing(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    restored(criu.pod(), archive).remove()
    nothing_is_left(criu.node)


def test_its_network_mounts_and_names_are_those_of_its_own_pod(
    criu: Kubelet, archive: Path
) -> None:
    volume = criu.node.directory / "volume-of-a-checkpoint"
    volume.mkdir()
    (volume / "file").write_text("old\n")
    mount = api.Mount(host_path=str(volume), container_path="/data")
    write(counting(criu.pod(), mounts=[mount]), archive)
    (volume / "file").write_text("new\n")
    pod = criu.pod()
    container = restored(pod, archive, mounts=[mount], linux=security(readonly_rootfs=True)).start()
    assert container.shell("cat /data/file; hostname") == f"new\n{pod.config.hostname}"
    assert pod.ip in container.shell("ip addr")
    refused_write = container.exec("touch", "/root/x")
    assert b"Read-only" in refused_write.stderr
    shutil.rmtree(volume)


@pytest.mark.parametrize("address", ["", "127.0.0.1:", "{pod}:"])
def test_who_listens_is_reached_again(criu: Kubelet, archive: Path, address: str) -> None:
    """At the pod's address, which is another than it was, or at any."""
    pod, other = criu.pod(), criu.pod()
    where = address.format(pod=pod.ip)
    first = pod.container(["httpd", "-f", "-p", f"{where}8080", "-h", "/etc"]).start()

    def serves(container: Container, ip: str) -> bool:
        place = "127.0.0.1" if where.startswith("127") else ip
        answer = container.exec("wget", "-q", "-O", "-", f"http://{place}:8080/passwd")
        return answer.stdout.startswith(b"root:")

    until(lambda: serves(first, pod.ip), "it serves")
    write(first, archive)
    second = restored(other, archive).start()
    assert serves(second, other.ip)


UDP = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("192.0.2.1", 53))
while True:
    print(s.getsockname()[0], flush=True)
    time.sleep(0.1)
"""


def test_a_connected_socket_has_the_pods_address(criu: Kubelet, archive: Path) -> None:
    """Here one of the node's Python, whose libraries are mounted for it."""
    mounts = [
        api.Mount(host_path=path, container_path=path, readonly=True)
        for path in ("/usr", "/lib", "/lib64")
    ]
    pod, other = criu.pod(), criu.pod()
    first = pod.container(["/usr/bin/python3", "-I", "-c", UDP], mounts=mounts).start()
    until(lambda: pod.ip in first.log(), "it is connected")
    write(first, archive)
    second = restored(other, archive, mounts=mounts).start()
    until(lambda: other.ip in second.log(), "it goes on")
    assert set(second.log()) == {other.ip}


TCP = """
import socket, time
server = socket.create_server(("127.0.0.1", 9000))
client = socket.create_connection(("127.0.0.1", 9000))
peer, _ = server.accept()
client.settimeout(5)
while True:
    try:
        peer.send(b"x")
        print("connected" if client.recv(1) else "closed", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
        client = socket.create_connection(("127.0.0.1", 9000))
        peer, _ = server.accept()
    time.sleep(0.1)
"""


def test_connections_are_closed_and_can_be_made_anew(criu: Kubelet, archive: Path) -> None:
    mounts = [
        api.Mount(host_path=path, container_path=path, readonly=True)
        for path in ("/usr", "/lib", "/lib64")
    ]
    first = criu.pod().container(["/usr/bin/python3", "-I", "-c", TCP], mounts=mounts).start()
    until(lambda: len(first.log()) > 2, "it is connected")
    write(first, archive)
    seen = len(first.log())
    until(lambda: len(first.log()) > seen + 2, "it goes on")
    assert set(first.log()) == {"connected"}
    second = restored(criu.pod(), archive, mounts=mounts).start()
    until(lambda: second.log().count("connected") > 2, "it is connected again")
    assert second.log()[0] == "Broken pipe"


def test_its_mounts_are_those_of_any_container(criu: Kubelet, archive: Path) -> None:
    """As many, and none beneath another: a procfs of the node, say."""
    write(counting(criu.pod()), archive)
    pod = criu.pod()
    mounts = "cut -d' ' -f5 /proc/1/mountinfo | sort"
    found = restored(pod, archive).start().shell(mounts)
    assert found == pod.container().start().shell(mounts)


def test_limits_are_those_of_the_request(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod()), archive)
    linux = api.LinuxContainerConfig(
        resources=api.LinuxContainerResources(memory_limit_in_bytes=256 << 20, oom_score_adj=500)
    )
    container = restored(criu.pod(), archive, linux=linux).start()
    assert container.shell("cat /proc/1/oom_score_adj") == "500"
    limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"
    assert str(256 << 20) in container.shell(f"cat {limit} 2>/dev/null || true")


def test_containers_of_a_shared_pid_namespace_go_on(criu: Kubelet, archive: Path) -> None:
    write(counting(criu.pod(criu.config(pid=api.POD))), archive)
    error = refused(restored(criu.pod(), archive).start)
    assert "pid namespace" in error.message
    container = restored(criu.pod(criu.config(pid=api.POD)), archive).start()
    goes_on(container)


def push_checkpoint(node: Node, archive: Path, key: str) -> str:
    """An image which is a checkpoint, as buildah makes it: its files are its only layer."""
    entries = [Entry(name, data) for name, data in members(archive).items()]
    image = images.Image([Layer.of(entries)])
    manifest = {**json.loads(image.manifest), "annotations": {key: "name"}}
    registry = images.Registry(REGISTRY)

    def push() -> None:
        for blob in image.blobs:
            registry.put_blob("tests/checkpoint", blob)
        data = json.dumps(manifest).encode()
        registry.put_manifest("tests/checkpoint", "1", image.types["manifest"], data)

    node.inside(push)
    return f"{REGISTRY}/tests/checkpoint:1"


@pytest.mark.parametrize(
    "key",
    ["io.kubernetes.cri-o.annotations.checkpoint.name", "org.criu.checkpoint.container.name"],
)
def test_an_image_may_be_a_checkpoint(criu: Kubelet, archive: Path, key: str) -> None:
    write(counting(criu.pod()), archive)
    image = criu.pull(push_checkpoint(criu.node, archive, key))
    container = restored(criu.pod(), image).start()
    goes_on(container)
    assert container.status().image_id == criu.image
