"""Bad input: each a clear message with the right code, and everything undone."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e import images
from e2e.images import Entry, Image, Layer, Registry, digest
from e2e.kubelet import Kubelet, Pod, refused
from e2e.node import REGISTRY, Node, started
from e2e.test_container import number, security

Code = grpc.StatusCode


@pytest.fixture(autouse=True)
def nothing_left(node: Node, busybox: str) -> Iterator[None]:
    """Whatever fails here leaves the node as it was."""
    del busybox
    before = node.inventory()
    yield
    assert node.leaks(before) == []


@pytest.fixture(name="pod")
def pod_of_this_test(kubelet: Kubelet, nothing_left: None) -> Iterator[Pod]:
    del nothing_left
    pod = kubelet.pod()
    yield pod
    kubelet.clean()


def image(name: str) -> api.ImageSpec:
    return api.ImageSpec(image=name)


@pytest.mark.parametrize("name", ["nobody/knows:1", "sha256:" + "1" * 64, "127.0.0.1:5000/x:y"])
def test_a_container_of_a_missing_image_is_not_made(pod: Pod, name: str) -> None:
    error = refused(lambda: pod.container(image=image(name)))
    assert error.code is Code.NOT_FOUND
    assert name.removeprefix("sha256:") in error.message


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/no/such/program", ("/no/such/program",)),
        ("no-such-program", ("no-such-program", "PATH")),
        ("/bin/no-interpreter", ("/bin/no-interpreter", "/no/such/shell")),
        ("/bin/no-text", ("/bin/no-text", "/no/\\udcff\\udcfe")),
        ("/bin/crlf", ("/bin/crlf", "/bin/sh")),
        ("/bin/not-executable", ("/bin/not-executable", "execut")),
        ("/bin/garbage", ("/bin/garbage",)),
        ("/etc", ("/etc", "directory")),
    ],
)
def test_a_command_that_can_not_run_says_what_is_missing(
    kubelet: Kubelet, pod: Pod, command: str, words: tuple[str, ...]
) -> None:
    broken = image(kubelet.pull(f"{REGISTRY}/tests/broken:1"))
    container = pod.container([command], image=broken)
    error = refused(container.start)
    assert error.code is not Code.INTERNAL
    for word in words:
        assert word in error.message
    status = container.status()
    assert (status.state, status.exit_code) == (api.CONTAINER_EXITED, 128)
    assert status.reason == "StartError"
    assert words[0] in status.message
    assert pod.status().state == api.SANDBOX_READY


@pytest.mark.parametrize(
    ("linux", "said"),
    [
        (security(run_as_username="nosuchuser"), "nosuchuser"),
        (security(run_as_group=number(5)), "run_as_group"),
        (security(run_as_user=number(-1)), "run_as_user"),
    ],
)
def test_a_bad_user_is_named(pod: Pod, linux: api.LinuxContainerConfig, said: str) -> None:
    error = refused(lambda: pod.container(linux=linux).start())
    assert said in error.message
    assert error.code is not Code.INTERNAL


@pytest.mark.parametrize("source", ["/etc/passwd/beneath-a-file", "/proc/none/of/this"])
def test_a_mount_source_that_can_not_be_is_named(pod: Pod, source: str) -> None:
    mounts = [api.Mount(container_path="/x", host_path=source)]
    error = refused(lambda: pod.container(mounts=mounts).start())
    assert source in error.message
    assert error.code is Code.INVALID_ARGUMENT


def test_a_mount_source_that_leads_nowhere_says_where(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    mounts = [api.Mount(container_path="/x", host_path=str(tmp_path / "link"))]
    error = refused(lambda: pod.container(mounts=mounts).start())
    assert str(tmp_path / "none") in error.message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mounts": [api.Mount(container_path="", host_path="/tmp")]}, "container_path"),
        ({"mounts": [api.Mount(container_path="/x", host_path="tmp")]}, "host_path"),
        ({"envs": [api.KeyValue(key="", value=b"1")]}, "envs"),
        ({"envs": [api.KeyValue(key="A=B", value=b"1")]}, "A=B"),
        ({"working_dir": "relative"}, "working_dir"),
        ({"devices": [api.Device(container_path="/dev/x", host_path="/dev/none")]}, "/dev/none"),
        ({"linux": security(privileged=True)}, "privileged"),
        ({"log_path": "a\0b"}, "log_path"),
        ({"log_path": "x" * 300}, "the log file"),
        ({"log_path": "."}, "the log file"),
        ({"mounts": [api.Mount(container_path="/x", host_path="/a\0b")]}, "host_path"),
        ({"devices": [api.Device(container_path="/dev/x", host_path="/a\0b")]}, "host_path"),
    ],
)
def test_a_field_that_can_not_be_is_named(pod: Pod, fields: dict[str, object], said: str) -> None:
    error = refused(lambda: pod.container(["true"], **fields).start())
    assert said in error.message
    assert error.code is not Code.INTERNAL


def test_an_unknown_capability_is_named(pod: Pod) -> None:
    linux = security(capabilities=api.Capability(add_capabilities=["FLY"]))
    assert "FLY" in refused(lambda: pod.container(linux=linux).start()).message


def test_a_seccomp_profile_that_is_not_there_is_named(pod: Pod) -> None:
    profile = api.SecurityProfile(
        profile_type=api.SecurityProfile.Localhost, localhost_ref="/no/such/profile.json"
    )
    error = refused(lambda: pod.container(linux=security(seccomp=profile)).start())
    assert "/no/such/profile.json" in error.message


def test_an_unknown_runtime_handler_is_named_with_those_that_are_known(kubelet: Kubelet) -> None:
    error = refused(lambda: kubelet.pod(handler="kata"))
    assert "kata" in error.message
    assert "podwright" in error.message


@pytest.mark.parametrize(
    "name", ["", "a/UPPER", "a b", "x:", "x@sha256:short", "x@md5:abc", "-x", "a//b"]
)
def test_a_malformed_reference_is_refused(kubelet: Kubelet, name: str) -> None:
    error = refused(lambda: kubelet.pull(name))
    assert error.code is Code.INVALID_ARGUMENT
    assert not name or name in error.message


def test_an_unreachable_registry_is_named_as_kubelet_wants_it(kubelet: Kubelet) -> None:
    error = refused(lambda: kubelet.pull("127.0.0.1:1/x:1"))
    assert error.code is Code.UNKNOWN
    assert error.message.startswith("RegistryUnavailable: ")
    assert "127.0.0.1:1" in error.message


def test_a_tag_that_the_registry_has_not_is_named(kubelet: Kubelet) -> None:
    error = refused(lambda: kubelet.pull(f"{REGISTRY}/library/busybox:none"))
    assert error.code is Code.NOT_FOUND
    assert "library/busybox" in error.message


def test_a_blob_with_a_wrong_digest_is_thrown_away(kubelet: Kubelet, node: Node) -> None:
    layer = Layer.of([Entry("honest", b"1")])
    good = Image([images.busybox(), layer])
    node.inside(lambda: good.push(Registry(REGISTRY), "tests/forged", "1"))
    hexes = digest(layer.blob).removeprefix("sha256:")
    blobs = node.directory / "registry-5000/data/docker/registry/v2/blobs/sha256"
    path = blobs / hexes[:2] / hexes / "data"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    error = refused(lambda: kubelet.pull(f"{REGISTRY}/tests/forged:1"))
    assert hexes[:12] in error.message
    assert kubelet.image_status(f"{REGISTRY}/tests/forged:1") is None
    path.write_bytes(layer.blob)
    assert kubelet.pull(f"{REGISTRY}/tests/forged:1") == good.id


def test_a_layer_that_is_not_what_the_configuration_says_is_refused(
    kubelet: Kubelet, node: Node
) -> None:
    layer = Layer.of([Entry("x", b"1")])
    liar = Layer(layer.blob, "sha256:" + "0" * 64)
    image = Image([images.busybox(), liar])
    reference = node.inside(lambda: image.push(Registry(REGISTRY), "tests/liar", "1"))
    assert refused(lambda: kubelet.pull(reference)).code is not Code.INTERNAL
    assert kubelet.image_status(reference) is None


def serve(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    """A daemon that is to fail at once."""
    return node.run(str(Path(sys.executable).with_name("podwright")), "serve", *words, timeout=20)


def test_a_second_daemon_on_the_same_root_is_refused(node: Node, kubelet: Kubelet) -> None:
    answer = serve(node, "--config", str(node.config))
    assert answer.returncode != 0
    assert str(node.directory) in answer.stderr
    assert "Traceback" not in answer.stderr
    assert kubelet.sandboxes() is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[network]\nenabeld = true\n", ":2: unknown key network.enabeld: did you mean"),
        ("log_level = 3\n", ":1: log_level: expected a string"),
        ("[network\n", ":1: not TOML"),
    ],
)
def test_a_configuration_with_a_typo_is_refused_with_its_line(
    node: Node, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "podwright.toml"
    path.write_text(text)
    answer = serve(node, "--config", str(path))
    assert answer.returncode != 0
    assert f"{path}{said}" in answer.stderr.replace("\n  ", " ")
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("field", ["name", "uid"])
def test_a_pod_without_a_whole_name_is_refused(kubelet: Kubelet, field: str) -> None:
    config = kubelet.config()
    config.metadata.ClearField(field)
    error = refused(lambda: kubelet.pod(config))
    assert error.code is Code.INVALID_ARGUMENT
    assert field in error.message


def test_a_full_disk_is_told_and_a_pull_works_once_there_is_room() -> None:
    """On a node whose files are on a small tmpfs of their own."""
    with started(disk_bytes=90 << 20) as node:
        registry = Registry(REGISTRY)
        large = Image([Layer.of([Entry("big", secrets.token_bytes(40 << 20))])])
        small = Image([images.busybox()])
        big_reference = node.inside(lambda: large.push(registry, "big", "1"))
        small_reference = node.inside(lambda: small.push(registry, "small", "1"))
        kubelet = Kubelet(node)
        error = refused(lambda: kubelet.pull(big_reference))
        assert error.code is Code.RESOURCE_EXHAUSTED
        assert kubelet.image_status(big_reference) is None
        assert kubelet.pull(small_reference) == small.id
        pod = kubelet.pod()
        assert pod.run("echo runs", image=api.ImageSpec(image=small.id)) == ["runs"]
        pod.remove()
