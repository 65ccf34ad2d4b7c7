"""Root tests live in namespaces of their own; without root they are skipped."""

from __future__ import annotations

import os

import pytest

from runtime.linux import mount
from runtime.linux.namespace import Clone, unshare


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
