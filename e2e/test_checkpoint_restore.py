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
from e2e.kubelet import Kubelet, refused, until
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
