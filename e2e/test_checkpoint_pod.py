"""Pods as a whole: written down at one moment, and made anew."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import grpc

from cri.api import api_pb2 as api
from e2e.checkpoints import (
    counting,
    goes_on,
    members,
    nothing_is_left,
)
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import REGISTRY


def checkpoint_pod(pod: Pod, output: Path, containers: list[Container], **options: str) -> None:
    request = api.CheckpointPodRequest(
        pod_sandbox_id=pod.id,
        output_path=str(output),
        container_ids=[container.id for container in containers],
        options=options,
    )
    pod.kubelet.client.call("CheckpointPod", request, api.CheckpointPodResponse, timeout=120)


def restore_pod(
    kubelet: Kubelet, output: Path, configs: list[api.ContainerConfig]
) -> tuple[Pod, dict[str, Container]]:
    config = kubelet.config()
    request = api.RestorePodRequest(
        checkpoint_path=str(output), config=config, container_configs=configs
    )
    answer = kubelet.client.call("RestorePod", request, api.RestorePodResponse, timeout=120)
    pod = Pod(kubelet, answer.pod_sandbox_id, config)
    kubelet.pods.append(pod)
    by_name = {one.metadata.name: one for one in configs}
    return pod, {
        one.name: Container(kubelet, one.container_id, by_name[one.name])
        for one in answer.restored_containers
    }


def test_a_pod_comes_back_with_all_its_containers(criu: Kubelet, tmp_path: Path) -> None:
    pod = criu.pod()
    containers = [counting(pod), counting(pod)]
    checkpoint_pod(pod, tmp_path, containers)
    for container in containers:
        goes_on(container)
    assert sorted(os.listdir(tmp_path)) == [
        "container-0.tar", "container-1.tar", "pod.dump", "pod.options"
    ]  # fmt: skip
    _, found = restore_pod(criu, tmp_path, [container.config for container in containers])
    assert found.keys() == {container.config.metadata.name for container in containers}
    for container in found.values():
        assert container.status().state == api.CONTAINER_CREATED
        goes_on(container.start())
    nothing_is_left(criu.node)


def test_the_containers_of_a_pod_are_of_one_moment(criu: Kubelet, tmp_path: Path) -> None:
    """One writes a number that the other reads; in the checkpoint neither is ahead."""
    volume = criu.node.directory / "volume-of-a-pod"
    volume.mkdir()
    mount = api.Mount(host_path=str(volume), container_path="/data")
    pod = criu.pod()
    tick = "i=0; while :; do i=$((i+1)); echo $i > /data/new; mv /data/new /data/now; echo $i; done"
    look = "while :; do cat /data/now; done"
    writer = pod.container(["sh", "-c", tick], mounts=[mount]).start()
    until(lambda: len(writer.log()) > 3, "it writes")
    reader = pod.container(["sh", "-c", look], mounts=[mount]).start()
    until(lambda: len(reader.log()) > 3, "it reads")
    checkpoint_pod(pod, tmp_path, [writer, reader])
    wrote, read = (
        int(members(tmp_path / f"container-{index}.tar")["container.log"].split()[-1])
        for index in range(2)
    )
    assert wrote - 10 <= read <= wrote + 1
    until(lambda: int(writer.log()[-1]) > wrote + 10, "it writes on")
    pod.remove()
    shutil.rmtree(volume)


def test_a_pods_checkpoint_is_of_exactly_its_running_containers(
    criu: Kubelet, tmp_path: Path
) -> None:
    pod = criu.pod()
    one, two = counting(pod), counting(pod)
    stranger = counting(criu.pod())
    for wrong in ([], [one], [one, one, two], [one, two, stranger]):
        error = refused(functools.partial(checkpoint_pod, pod, tmp_path, wrong))
        assert (error.code, "container_ids" in error.message) == (
            grpc.StatusCode.INVALID_ARGUMENT, True
        )  # fmt: skip
    error = refused(lambda: checkpoint_pod(pod, tmp_path, [one, two], fast="yes"))
    assert "'fast'" in error.message
    (tmp_path / "there").touch()
    error = refused(lambda: checkpoint_pod(pod, tmp_path, [one, two]))
    assert "not empty" in error.message
    assert os.listdir(tmp_path) == ["there"]
    goes_on(one)
    nothing_is_left(criu.node)


def test_a_pod_that_can_not_be_restored_leaves_nothing(criu: Kubelet, tmp_path: Path) -> None:
    pod = criu.pod()
    containers = [counting(pod), counting(pod)]
    checkpoint_pod(pod, tmp_path, containers)
    configs = [container.config for container in containers]
    before = len(criu.sandboxes())
    error = refused(lambda: restore_pod(criu, tmp_path, configs[:1]))
    assert "container_configs" in error.message
    (tmp_path / "container-1.tar").write_bytes(b"damaged" * 1000)
    error = refused(lambda: restore_pod(criu, tmp_path, configs))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    other = api.ContainerConfig()
    other.CopyFrom(configs[0])
    other.image.image = criu.pull(f"{REGISTRY}/tests/user:1")
    shutil.copy(tmp_path / "container-0.tar", tmp_path / "container-1.tar")
    error = refused(lambda: restore_pod(criu, tmp_path, [other, configs[1]]))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert len(criu.sandboxes()) == before
    nothing_is_left(criu.node)


def test_a_pods_checkpoint_names_files_beside_it_only(criu: Kubelet, tmp_path: Path) -> None:
    for name in ("../x.tar", "/etc/shadow", "", ".."):
        options = {"version": 1, "containers": {"c": name}}
        (tmp_path / "pod.options").write_text(json.dumps(options))
        config = api.ContainerConfig(metadata=api.ContainerMetadata(name="c"))
        error = refused(functools.partial(restore_pod, criu, tmp_path, [config]))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
