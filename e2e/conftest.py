"""One node for the session: its daemon, its registry with images, and the leak check at the end."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import images
from e2e.checkpoints import CRIU, without_criu
from e2e.images import DOCKER, Entry, Image, Layer, directory, symlink
from e2e.kubelet import Kubelet, Pod
from e2e.node import REGISTRY, Node, started

HERE = Path(__file__).parent
BUSYBOX = f"{REGISTRY}/library/busybox:1.35"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts daemons, and that takes root."""
    skip = pytest.mark.skip(reason="needs root")
    for item in items:
        if HERE in item.path.parents and "bench" not in item.path.parts:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(skip)


def push_images(registry: images.Registry) -> None:
    """The images that the tests speak of."""
    base = images.busybox()
    Image([base], {"Cmd": ["sh"]}).push(registry, "library/busybox", "1.35")
    Image([base], {"Cmd": ["sh"], "User": "alice"}).push(registry, "tests/user", "1")
    entry = {
        "Entrypoint": ["/bin/echo", "entry"],
        "Cmd": ["default"],
        "Env": ["PATH=/bin", "FROM_IMAGE=yes", "BOTH=image"],
        "WorkingDir": "/var/log",
        "StopSignal": "SIGUSR1",
    }
    Image([base], entry).push(registry, "tests/entry", "1")
    Image([base], {"Cmd": ["sh", "-c", "exit 3"]}, DOCKER).push(registry, "tests/docker", "1")
    Image([base], {"Labels": {"kind": "index"}}).push_index(registry, "tests/index", "1")
    Image(layers(), {"Cmd": ["sh"]}).push(registry, "tests/layers", "1")
    Image([base, Layer.of(broken())]).push(registry, "tests/broken", "1")
    Image([base, Layer.of(traps())]).push(registry, "tests/traps", "1")


def layers() -> list[Layer]:
    """Four layers in three compressions; the upper ones delete and replace what is beneath."""
    return [
        images.busybox(),
        Layer.of(
            [
                directory("data"),
                Entry("data/deleted", b"1"),
                Entry("data/kept", b"2"),
                directory("data/hidden"),
                Entry("data/hidden/a", b"3"),
                directory("swap"),
                Entry("swap/inner", b"4"),
            ],
            compression="zstd",
        ),
        Layer.of(
            [
                Entry("data/.wh.deleted"),
                directory("data/hidden"),
                Entry("data/hidden/.wh..wh..opq"),
                Entry("data/hidden/b", b"5"),
                Entry(".wh.swap"),
            ],
            compression="none",
        ),
        Layer.of([Entry("swap", b"a file now")]),
    ]


def broken() -> list[Entry]:
    """Commands that can't be run, each for another reason."""
    return [
        Entry("bin/no-interpreter", b"#!/no/such/shell\n", 0o755),
        Entry("bin/no-text", b"#!/no/\xff\xfe\n", 0o755),
        Entry("bin/crlf", b"#!/bin/sh\r\necho\r\n", 0o755),
        Entry("bin/not-executable", b"#!/bin/sh\n", 0o644),
        Entry("bin/garbage", b"\x00\x01\x02", 0o755),
    ]


def traps() -> list[Entry]:
    """What an image would bring that wants to reach the node's files."""
    return [
        Entry("etc/passwd", kind=tarfile.SYMTYPE, target="/../../../../etc/shadow"),
        symlink("etc/resolv.conf", "/../../../../tmp/podwright-trap"),
        symlink("etc/hosts", "../../../../../../tmp/podwright-trap"),
        symlink("etc/hostname", "/proc/1/root/tmp/podwright-trap"),
        symlink("data", "/../../../../var/tmp"),
        symlink("work", "/proc/1/cwd"),
        symlink("dev", "/tmp"),
    ]


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A node with a registry and a daemon; nothing may be left on it when all pods are gone."""
    with started() as node:
        node.inside(lambda: push_images(images.Registry(REGISTRY)))
        before = node.inventory()
        yield node
        assert node.leaks(before) == []


@pytest.fixture(scope="session")
def busybox(node: Node) -> str:
    """The id of the busybox image, pulled."""
    return Kubelet(node).pull(BUSYBOX)


@pytest.fixture
def kubelet(node: Node, busybox: str) -> Iterator[Kubelet]:
    """Asks the session's daemon; the pods of a test end with the test."""
    kubelet = Kubelet(node, busybox)
    yield kubelet
    kubelet.clean()


@pytest.fixture
def pod(kubelet: Kubelet) -> Pod:
    """A plain pod."""
    return kubelet.pod()


@pytest.fixture(scope="module")
def criu_node(node: Node, busybox: str) -> Iterator[Node]:
    """The session's node, with a CRIU that works."""
    if why := without_criu():
        pytest.skip(why)
    node.more_config = f'[runtime]\ncriu = "{CRIU}"\n'
    node.restart_daemon()
    yield node
    node.more_config = ""
    node.restart_daemon()


@pytest.fixture
def criu(criu_node: Node, kubelet: Kubelet) -> Kubelet:
    return kubelet


@pytest.fixture
def archive(criu_node: Node, tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.tar"
