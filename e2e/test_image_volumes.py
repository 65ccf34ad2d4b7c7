"""Images as volumes: their files to read, kept while a container has them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.images import Artifact, Registry, digest
from e2e.kubelet import Container, Kubelet, Pod, refused
from e2e.node import REGISTRY, Node
from e2e.test_container import security
from e2e.test_user_namespaces import user_pod

LAYERS = f"{REGISTRY}/tests/layers:1"
TRAPS = f"{REGISTRY}/tests/traps:1"


def volume(image: str, path: str = "", **fields: object) -> api.Mount:
    asked = api.Mount(
        container_path="/volume",
        image=api.ImageSpec(image=image),
        image_sub_path=path,
        readonly=True,
    )
    asked.MergeFrom(api.Mount(**fields))  # type: ignore[arg-type]  # by name
    return asked


def remove_image(kubelet: Kubelet, image: str) -> None:
    request = api.RemoveImageRequest(image=api.ImageSpec(image=image))
    kubelet.client.call("RemoveImage", request, api.RemoveImageResponse)


def read(container: Container) -> list[str]:
    return container.shell("cd /volume/data; cat kept hidden/b; ls; cat ../swap").split()


@pytest.mark.parametrize("users", ["the node's", "the pod's"])
def test_an_image_is_seen_as_a_container_of_it_would_see_it(kubelet: Kubelet, users: str) -> None:
    """Layers over each other, deleted files gone; whoever's the pod's users are."""
    pod = kubelet.pod() if users == "the node's" else user_pod(kubelet)
    container = pod.container(mounts=[volume(kubelet.pull(LAYERS))]).start()
    assert container.shell("cd /volume/data; cat kept hidden/b; ls; cat ../swap").split() == [
        *("25hidden", "kept"), *("a", "file", "now"),
    ]  # fmt: skip
    assert container.shell("stat -c %u:%g /volume/bin/busybox /volume").split() == ["0:0"] * 2
    assert container.shell("/volume/bin/busybox echo runs") == "runs"
    answer = container.exec("touch", "/volume/made")
    assert b"Read-only file system" in answer.stderr


@pytest.mark.parametrize("part", ["", "bin"])
def test_not_even_cap_sys_admin_changes_a_layer_that_others_have(
    kubelet: Kubelet, pod: Pod, part: str
) -> None:
    """An image of one layer, which is a directory of the node."""
    admin = security(capabilities=api.Capability(add_capabilities=["ALL"]))
    container = pod.container(mounts=[volume(kubelet.image, part)], linux=admin).start()
    for options in ("remount,bind,rw", "remount,rw"):
        container.exec("mount", "-o", options, "none", "/volume")
    assert b"Read-only file system" in container.exec("touch", "/volume/made").stderr
    kubelet.pod().container().start().shell(f"test ! -e /{part}/made")


@pytest.mark.parametrize("users", ["the node's", "the pod's"])
def test_a_part_of_an_image_can_be_a_directory_or_a_file(kubelet: Kubelet, users: str) -> None:
    pod = kubelet.pod() if users == "the node's" else user_pod(kubelet)
    image = kubelet.pull(LAYERS)
    mounts = [
        volume(image, "data"),
        volume(image, "data/kept", container_path="/etc/kept"),
        volume(kubelet.image, "bin/busybox", container_path="/busybox"),
    ]
    container = pod.container(mounts=mounts).start()
    assert container.shell("ls /volume; cat /etc/kept; /busybox echo runs").split() == [
        *("hidden", "kept", "2runs"),
    ]  # fmt: skip
    assert container.exec("sh", "-c", "echo x > /etc/kept").exit_code != 0
    assert container.shell("echo x > /dev/shm/x; ls /dev/shm") == "x"


def test_its_files_are_kept_while_a_container_has_them(
    kubelet: Kubelet, pod: Pod, node: Node
) -> None:
    """Over the removal of the image, and a new daemon that starts the container."""
    image = kubelet.pull(LAYERS)
    container = pod.container(mounts=[volume(image, "data")])
    assert container.status().mounts[0].image.image_ref == image
    remove_image(kubelet, image)
    assert node.daemon is not None
    os.kill(node.daemon.process.pid, signal.SIGKILL)
    node.daemon.process.wait()
    node.start_daemon()
    container.start()
    assert container.shell("cat /volume/kept") == "2"
    assert json.loads(container.response(verbose=True).info["info"])["pid"]
    assert container.status().mounts[0].image.image == image
    container.stop()
    container.remove()
    names = [path.name for path in (node.root / "containers").iterdir()]
    assert not [name for name in names if container.id in name]


def test_what_is_not_in_the_image_is_said_when_the_container_is_created(
    kubelet: Kubelet, pod: Pod, node: Node
) -> None:
    """With the prefix by which kubelet tells its user; and nothing is left."""
    image = kubelet.pull(LAYERS)
    for asked in (volume(image, "data/deleted"), volume(image, "swap/inner"), volume("absent:1")):
        error = refused(lambda asked=asked: pod.container(mounts=[asked]))  # type: ignore[misc]
        assert error.code is grpc.StatusCode.UNKNOWN
        assert error.message.startswith("ImageVolumeMountFailed: ")
    assert list((node.root / "containers").iterdir()) == []


def test_a_part_that_is_a_link_leads_nowhere_on_the_node(kubelet: Kubelet, pod: Pod) -> None:
    """The image's /etc/shadow link and its like are followed in the image, and only there."""
    image = kubelet.pull(TRAPS)
    error = refused(lambda: pod.container(mounts=[volume(image, "etc/passwd")]).start())
    assert error.message.startswith("ImageVolumeMountFailed: ")


MODEL = Artifact({"weights.bin": bytes(range(256)) * 4096, "config.json": b"{}\n", "-rf": b"1"})


def push(node: Node, artifact: Artifact, tag: str) -> str:
    return node.inside(lambda: artifact.push(Registry(REGISTRY), "tests/artifact", tag))


@pytest.mark.parametrize("users", ["the node's", "the pod's"])
def test_an_artifact_is_a_directory_of_its_files(kubelet: Kubelet, node: Node, users: str) -> None:
    image = kubelet.pull(push(node, MODEL, "model"))
    assert image == MODEL.id
    pod = kubelet.pod() if users == "the node's" else user_pod(kubelet)
    mounts = [volume(image), volume(image, "config.json", container_path="/config")]
    container = pod.container(mounts=mounts).start()
    assert container.shell("ls /volume; stat -c '%a %u:%g' /volume /volume/*").split() == [
        *("-rf", "config.json", "weights.bin"), "755", "0:0", *("644", "0:0") * 3,
    ]  # fmt: skip
    sums = container.shell("sha256sum < /volume/weights.bin; cat /config").split()
    assert sums == [digest(MODEL.files["weights.bin"]).removeprefix("sha256:"), "-", "{}"]
    for attempt in ("touch /volume/made", "rm /volume/config.json", "echo x > /config"):
        answer = container.exec("sh", "-c", attempt)
        assert b"Read-only file system" in answer.stderr, attempt
    remove_image(kubelet, image)
    assert container.shell("cat /volume/config.json; ls -l /volume | wc -l") == "{}\n4"


def test_an_artifact_is_listed_with_its_size_and_runs_nothing(
    kubelet: Kubelet, pod: Pod, node: Node
) -> None:
    name = push(node, MODEL, "listed")
    image = kubelet.pull(name)
    answer = kubelet.client.call("ListImages", api.ListImagesRequest(), api.ListImagesResponse)
    (listed,) = (one for one in answer.images if one.id == image)
    assert 1 << 20 < listed.size < (1 << 20) + 50_000
    assert name in listed.repo_tags
    said = kubelet.client.call(
        "ImageStatus",
        api.ImageStatusRequest(image=api.ImageSpec(image=name), verbose=True),
        api.ImageStatusResponse,
    )
    layers = json.loads(said.info["info"])["imageSpec"]["layers"]
    assert len(layers) == len(MODEL.files)
    config = pod.container_config(["sh"])
    config.image.image = image
    asked = api.CreateContainerRequest(pod_sandbox_id=pod.id, config=config)
    error = refused(
        lambda: kubelet.client.call("CreateContainer", asked, api.CreateContainerResponse)
    )
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "is an artifact" in error.message
    missing = refused(lambda: pod.container(mounts=[volume(image, "none")]))
    assert missing.message.startswith("ImageVolumeMountFailed: ")
    remove_image(kubelet, image)


@pytest.mark.parametrize("title", ["../../../tmp/podwright-trap", "/tmp/podwright-trap", "a/b"])
def test_an_artifacts_file_never_lies_elsewhere(kubelet: Kubelet, node: Node, title: str) -> None:
    name = push(node, Artifact({"good": b"1", title: b"evil"}), "evil")
    error = refused(lambda: kubelet.pull(name))
    assert "layer 2 has the title" in error.message
    assert not Path("/tmp/podwright-trap").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"readonly": False},
        {"image_sub_path": "../etc"},
        {"image_sub_path": "/etc"},
        {"propagation": api.PROPAGATION_HOST_TO_CONTAINER},
        {"host_path": "/tmp"},
    ],
)
def test_what_makes_no_sense_for_an_image_is_refused(
    kubelet: Kubelet, pod: Pod, wrong: dict[str, object]
) -> None:
    asked = volume(kubelet.image)
    for name, value in wrong.items():
        setattr(asked, name, value)
    error = refused(lambda: pod.container(mounts=[asked]))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert next(iter(wrong)) in error.message


def test_options_of_a_mount_hold_for_images_and_directories(
    kubelet: Kubelet, pod: Pod, tmp_path: Path
) -> None:
    mounts = [
        volume(kubelet.image, mount_options=["noexec"]),
        api.Mount(
            container_path="/host", host_path=str(tmp_path), mount_options=["noexec", "nosuid"]
        ),
    ]
    container = pod.container(mounts=mounts).start()
    table = container.shell("cat /proc/self/mounts")
    options = {line.split()[1]: line.split()[3].split(",") for line in table.splitlines()}
    assert {"ro", "noexec", "nosuid", "nodev"} <= set(options["/volume"])
    assert {"noexec", "nosuid"} <= set(options["/host"])
    error = refused(lambda: container.exec("/volume/bin/busybox", "true"))
    assert "noexec" in error.message
