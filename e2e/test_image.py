"""Images from a real registry, under every name, in every form."""

from __future__ import annotations

import base64
import secrets
import shutil
import signal
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e import images
from e2e.images import Entry, Image, Layer, Registry
from e2e.kubelet import Kubelet, Pod, refused
from e2e.node import REGISTRY, Node

NAMED = f"{REGISTRY}/library/busybox"
PRIVATE = "127.0.0.1:5001"
# tester:secret, as htpasswd -nbB writes it
HTPASSWD = "tester:$2b$05$Q2pcyDmTPjYjDq2pYy1cxeZNCgFJLApNLw/unK244CagbABlPBT0i\n"


def run_image(kubelet: Kubelet, pod: Pod, reference: str, script: str) -> list[str]:
    image = api.ImageSpec(image=kubelet.pull(reference))
    return pod.run(script, image=image)


def test_a_pull_answers_with_the_digest_of_the_configuration(kubelet: Kubelet) -> None:
    expected = Image([images.busybox()], {"Cmd": ["sh"]}).id
    assert kubelet.pull(f"{NAMED}:1.35") == expected
    assert kubelet.pull(f"{NAMED}:1.35") == expected


def test_an_image_is_known_under_every_name(kubelet: Kubelet) -> None:
    status = kubelet.image_status(f"{NAMED}:1.35")
    assert status is not None
    digest = next(name for name in status.repo_digests if name.startswith(NAMED))
    bare = kubelet.image.removeprefix("sha256:")
    for name in (kubelet.image, bare, bare[:12], digest, f"{NAMED}:1.35@{digest.split('@')[1]}"):
        found = kubelet.image_status(name)
        assert found is not None, name
        assert found.id == kubelet.image
    assert f"{NAMED}:1.35" in status.repo_tags
    assert status.size > 1000
    assert kubelet.pull(digest) == kubelet.image


@pytest.mark.parametrize("name", ["nothing", "sha256:" + "0" * 64, "ffff", "127.0.0.1:5000/x:1"])
def test_an_unknown_image_has_no_status_and_can_be_removed(kubelet: Kubelet, name: str) -> None:
    assert kubelet.image_status(name) is None
    request = api.RemoveImageRequest(image=api.ImageSpec(image=name))
    kubelet.client.call("RemoveImage", request, api.RemoveImageResponse)


def test_the_user_of_an_image_is_told_as_number_or_name(kubelet: Kubelet) -> None:
    named = kubelet.image_status(kubelet.pull(f"{REGISTRY}/tests/user:1"))
    plain = kubelet.image_status(kubelet.image)
    assert named is not None
    assert plain is not None
    assert (named.username, named.HasField("uid")) == ("alice", False)
    assert (plain.username, plain.uid.value) == ("", 0)


def test_docker_manifests_and_indexes_are_read(kubelet: Kubelet, pod: Pod) -> None:
    docker = pod.container(
        (), image=api.ImageSpec(image=kubelet.pull(f"{REGISTRY}/tests/docker:1"))
    )
    assert docker.start().wait().exit_code == 3
    assert run_image(kubelet, pod, f"{REGISTRY}/tests/index:1", "echo runs") == ["runs"]


def test_layers_of_all_compressions_lie_over_each_other(kubelet: Kubelet, pod: Pod) -> None:
    said = run_image(
        kubelet,
        pod,
        f"{REGISTRY}/tests/layers:1",
        "ls /data /data/hidden | tr '\\n' ' '; echo; cat /swap /data/kept; ls -A /data/hidden",
    )
    assert said == ["/data: hidden kept  /data/hidden: b ", "a file now2b"]


def test_a_removed_image_is_gone_at_once_with_all_its_names(kubelet: Kubelet, node: Node) -> None:
    image = Image([images.busybox(), Layer.of([Entry("x", b"1")])])
    registry = Registry(REGISTRY)
    node.inside(lambda: image.push(registry, "tests/gone", "a"))
    node.inside(lambda: image.push(registry, "tests/gone", "b"))
    assert kubelet.pull(f"{REGISTRY}/tests/gone:a") == kubelet.pull(f"{REGISTRY}/tests/gone:b")
    request = api.RemoveImageRequest(image=api.ImageSpec(image=f"{REGISTRY}/tests/gone:a"))
    kubelet.client.call("RemoveImage", request, api.RemoveImageResponse)
    assert kubelet.image_status(image.id) is None
    assert kubelet.image_status(f"{REGISTRY}/tests/gone:b") is None
    listed = kubelet.client.call("ListImages", api.ListImagesRequest(), api.ListImagesResponse)
    assert image.id not in {item.id for item in listed.images}


def test_a_container_outlives_its_image(kubelet: Kubelet, node: Node, pod: Pod) -> None:
    image = Image([images.busybox(), Layer.of([Entry("file", b"still here")])])
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "tests/outlived", "1"))
    container = pod.container(image=api.ImageSpec(image=kubelet.pull(reference))).start()
    request = api.RemoveImageRequest(image=api.ImageSpec(image=image.id))
    kubelet.client.call("RemoveImage", request, api.RemoveImageResponse)
    assert container.shell("cat /file") == "still here"
    status = container.status()
    assert status.image_ref == image.id
    assert status.image.image


def test_the_same_image_pulled_at_the_same_time_is_pulled_once(
    kubelet: Kubelet, node: Node
) -> None:
    image = Image([images.busybox(), Layer.of([Entry("big", bytes(5_000_000))])])
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "tests/many", "1"))
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(kubelet.pull, [reference] * 6)) == {image.id}


def test_a_configuration_that_no_answer_could_carry_is_refused(
    kubelet: Kubelet, node: Node
) -> None:
    """One such image would make every later list of images fail."""
    image = Image([images.busybox()], {"User": "\ud800"})
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "attack/half", "1"))
    assert "no Unicode text" in refused(lambda: kubelet.pull(reference)).message


def test_images_are_listed_and_filtered(kubelet: Kubelet) -> None:
    wanted = api.ImageFilter(image=api.ImageSpec(image=f"{NAMED}:1.35"))
    for filters, count in ((wanted, 1), (api.ImageFilter(image=api.ImageSpec(image="none")), 0)):
        request = api.ListImagesRequest(filter=filters)
        answer = kubelet.client.call("ListImages", request, api.ListImagesResponse)
        assert len(answer.images) == count


def test_the_image_file_system_is_told_with_its_use(kubelet: Kubelet, node: Node) -> None:
    answer = kubelet.client.call("ImageFsInfo", api.ImageFsInfoRequest(), api.ImageFsInfoResponse)
    (images_use,) = answer.image_filesystems
    assert images_use.used_bytes.value > 1_000_000
    assert images_use.inodes_used.value > 10
    assert images_use.timestamp > 0
    assert Path(images_use.fs_id.mountpoint).is_dir()
    assert Path(images_use.fs_id.mountpoint).is_relative_to(node.root)


@pytest.fixture(scope="module")
def private(node: Node) -> Iterator[str]:
    """An image in a registry that wants a name and a password."""
    registry = node.start_registry(htpasswd=HTPASSWD, port=5001)
    authorization = "Basic " + base64.b64encode(b"tester:secret").decode()
    image = Image([images.busybox()], {"Labels": {"for": "few"}})
    yield node.inside(lambda: image.push(Registry(PRIVATE, authorization), "few", "1"))
    registry.stop()


@pytest.mark.parametrize(
    "auth",
    [
        api.AuthConfig(username="tester", password="secret"),
        api.AuthConfig(auth=base64.b64encode(b"tester:secret").decode()),
        api.AuthConfig(username="tester", password="secret", server_address=PRIVATE),
    ],
)
def test_a_name_and_a_password_open_a_private_registry(
    kubelet: Kubelet, private: str, auth: api.AuthConfig
) -> None:
    assert kubelet.pull(private, auth).startswith("sha256:")


@pytest.mark.parametrize("auth", [None, api.AuthConfig(username="tester", password="wrong")])
def test_a_registry_that_says_no_is_quoted(
    kubelet: Kubelet, private: str, auth: api.AuthConfig | None
) -> None:
    error = refused(lambda: kubelet.pull(private, auth))
    assert PRIVATE in error.message
    assert error.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


@pytest.mark.parametrize("form", ["directory", "tar", "tar.gz"])
def test_a_layout_is_imported_without_a_registry(
    kubelet: Kubelet, pod: Pod, tmp_path: Path, form: str
) -> None:
    image = Image([images.busybox()], {"Labels": {"imported": form}})
    name = f"example.com/imported/{form.replace('.', '-')}:1"
    path = image.layout(tmp_path / "layout", name)
    if form != "directory":
        archive = tmp_path / f"image.{form}"
        with tarfile.open(archive, "w:gz" if form == "tar.gz" else "w") as tar:
            tar.add(path, arcname=".")
        path = archive
    answer = kubelet.client.diagnose("ImportImage", {"path": str(path)})
    assert [item["id"] for item in answer["images"]] == [image.id]  # type: ignore[attr-defined]  # JSON
    found = kubelet.image_status(name)
    assert found is not None
    assert found.id == image.id
    assert pod.run("echo runs", image=api.ImageSpec(image=name)) == ["runs"]


def test_a_kill_during_a_pull_leaves_nothing_broken(node: Node, kubelet: Kubelet) -> None:
    random = [secrets.token_bytes(3_000_000) for _ in range(4)]
    image = Image([images.busybox(), *(Layer.of([Entry(f"f{i}", data)])
                                       for i, data in enumerate(random))])  # fmt: skip
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "tests/killed", "1"))
    for moment in (0, 3, 6):
        news = node.client.follow("PullImage", {"image": reference})
        for _, _ in zip(range(moment), news, strict=False):
            pass
        node.restart_daemon(how=signal.SIGKILL)
        assert kubelet.image_status(reference) is None
    assert kubelet.pull(reference) == image.id
    pod = kubelet.pod()
    sizes = pod.run("wc -c < /f0; wc -c < /f3", image=api.ImageSpec(image=image.id))
    assert sizes == ["3000000", "3000000"]
    ingest = node.root / "content" / "ingest"
    assert not ingest.exists() or not list(ingest.iterdir())


def test_what_is_in_the_store_survives_a_restart(node: Node, kubelet: Kubelet) -> None:
    before = kubelet.client.call("ListImages", api.ListImagesRequest(), api.ListImagesResponse)
    node.restart_daemon()
    after = kubelet.client.call("ListImages", api.ListImagesRequest(), api.ListImagesResponse)
    assert sorted(map(str, after.images)) == sorted(map(str, before.images))


def test_a_container_starts_although_its_image_was_removed_and_the_daemon_restarted(
    node: Node, kubelet: Kubelet, pod: Pod
) -> None:
    image = Image([images.busybox()], {"Cmd": ["sh", "-c", "echo $GREETING"], "Env": ["PATH=/bin",
        "GREETING=from the image"]})  # fmt: skip
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "tests/removed", "1"))
    kubelet.pull(reference)
    container = pod.container([], image=api.ImageSpec(image=reference))
    kubelet.client.call(
        "RemoveImage",
        api.RemoveImageRequest(image=api.ImageSpec(image=image.id)),
        api.RemoveImageResponse,
    )
    node.restart_daemon()
    assert kubelet.image_status(reference) is None
    assert container.start().wait().exit_code == 0
    assert container.log() == ["from the image"]


def test_a_layer_that_was_deleted_behind_our_back_is_pulled_again(
    node: Node, kubelet: Kubelet, pod: Pod
) -> None:
    image = Image([images.busybox(), Layer.of([Entry("only-here", b"1")])])
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "tests/lost", "1"))
    kubelet.pull(reference)
    (lost,) = [path.parent for path in (node.root / "layers").rglob("only-here")]
    shutil.rmtree(lost)
    node.restart_daemon()
    assert kubelet.image_status(reference) is None
    kubelet.pull(reference)
    assert pod.run("cat /only-here", image=api.ImageSpec(image=image.id)) == ["1"]
