"""One node for the session: its daemon, its registry with images, and the leak check at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import images
from e2e.kubelet import Kubelet
from e2e.node import REGISTRY, Node, leaks, started

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


def push_images(node: Node) -> None:
    """The images that the tests speak of."""
    registry = images.Registry(REGISTRY)
    plain = images.Image([images.busybox()], {"Cmd": ["sh"]})
    plain.push(registry, "library/busybox", "1.35")


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A node with a registry and a daemon; nothing may be left on it when all pods are gone."""
    with started() as node:
        node.inside(lambda: push_images(node))
        before = node.inventory()
        yield node
        assert leaks(before, node.inventory()) == []


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
