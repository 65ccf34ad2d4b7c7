"""Fixtures: a real registry of our own, stores under scratch roots."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_asyncio

from image.settings import ImageSettings, RegistrySettings, UnpackLimits
from image.store import ImageStore
from image.tests.registry import FakeRegistry

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def real_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of Debian's docker-registry."""
    folder = tmp_path_factory.mktemp("registry")
    port = free_port()
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(root=folder / "data", port=port))
    try:
        process = subprocess.Popen(
            ["docker-registry", "serve", config],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        pytest.skip("docker-registry is not installed")
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, "docker-registry ended"
                assert time.monotonic() < deadline, "docker-registry does not answer"
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def fake_registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def settings(**fields: Any) -> ImageSettings:
    """Settings that do not wait: everything a test may want to see fails at once."""
    registries = RegistrySettings(
        hosts_dir="", retry_delay=0.01, attempts=3, connect_timeout=5, read_timeout=5
    )
    defaults = {"registries": registries, "limits": LIMITS, "parallel_layers": 1}
    return ImageSettings(**{**defaults, **fields})


LIMITS = UnpackLimits(reserve_bytes=0)
OpenStore = Callable[..., Coroutine[None, None, ImageStore]]


@pytest_asyncio.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Open a store under tmp_path/root; closed at the end."""
    if os.geteuid():
        pytest.skip("layers need root: owners, devices, trusted attributes")
    stores: list[ImageStore] = []

    async def open_one(root: Path = tmp_path / "root", **fields: object) -> ImageStore:
        store = await ImageStore.open(root, settings(**fields))
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.close()


@pytest_asyncio.fixture
async def store(open_store: OpenStore) -> ImageStore:
    return await open_store()
