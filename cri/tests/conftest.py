"""Root tests live in namespaces of their own; without root they are skipped."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import pytest

from cri.tests.pods import Node
from cri.tests.sessions import Streams, streaming
from runtime.linux import mount
from runtime.linux.namespace import Clone, unshare

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden files anew, then look at them",
    )


def pytest_sessionstart() -> None:
    if os.geteuid() == 0:
        unshare(Clone.NEWNS)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        mount.mount_setattr(root, propagation=mount.Propagation.PRIVATE, recursive=True)
        os.close(root)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A daemon's parts, started; afterwards every process of it and its pods is gone."""
    node = Node(tmp_path)
    await node.start()
    yield node
    await node.end()


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    """A stream server; afterwards nothing of it is left."""
    async with streaming() as made:
        yield made
