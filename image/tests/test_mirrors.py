"""Mirrors in front of a registry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from image.errors import (
    ManifestUnknown,
)
from image.settings import RegistrySettings
from image.store import Credentials
from image.tests import build
from image.tests.build import app, file, tar
from image.tests.conftest import OpenStore, free_port
from image.tests.invariants import check
from image.tests.registry import FakeRegistry, Fault

pytestmark = pytest.mark.root


async def test_a_mirror_is_asked_first_and_told_the_name(
    open_store: OpenStore, fake_registry: FakeRegistry, tmp_path: Path
) -> None:
    mirrored(tmp_path, "quay.example", f'[host."http://{fake_registry.host}"]')
    store = await open_store(registries=quick(tmp_path))
    fake_registry.add(app(), "team/app", "1")
    image = await store.pull("quay.example/team/app:1", Credentials("alice", "secret"))
    assert image.names == ("quay.example/team/app:1",)
    assert all(seen.path.endswith("?ns=quay.example") for seen in fake_registry.requests)
    assert not any("authorization" in seen.headers for seen in fake_registry.requests)


async def test_a_mirror_that_fails_is_passed_over(
    open_store: OpenStore, fake_registry: FakeRegistry, tmp_path: Path
) -> None:
    with FakeRegistry() as mirror:
        text = f'[host."http://127.0.0.1:{free_port()}"]\n[host."http://{mirror.host}"]'
        mirrored(tmp_path, "_default", text)
        store = await open_store(registries=quick(tmp_path))
        name = fake_registry.add(app(), "team/app", "1")
        image = await store.pull(name)
        assert image.names == (name,)
        assert mirror.paths("/manifests/")
        with pytest.raises(ManifestUnknown, match=r"\(mirror\).*\(mirror\).*MANIFEST_UNKNOWN"):
            await store.pull(f"{fake_registry.host}/none:1")


async def test_a_mirror_with_other_bytes_is_passed_over(
    open_store: OpenStore, fake_registry: FakeRegistry, tmp_path: Path
) -> None:
    with FakeRegistry() as mirror:
        mirrored(tmp_path, "_default", f'[host."http://{mirror.host}"]')
        store = await open_store(registries=quick(tmp_path))
        built = app()
        name = fake_registry.add(built, "a", "1")
        mirror.add(built, "a", "1")
        blob = built.layers[0].blob
        wrong = Fault(build.digest(blob), replace=blob[:-20] + bytes(20))
        mirror.faults.append(wrong)
        image = await store.pull(name)
        assert wrong.reached.is_set()
        assert image.id == built.id
        assert fake_registry.paths(build.digest(blob))
        check(store)


async def test_a_mirror_that_does_not_answer_is_asked_no_more(
    open_store: OpenStore, fake_registry: FakeRegistry, tmp_path: Path
) -> None:
    with FakeRegistry() as mirror:
        mirrored(tmp_path, "_default", f'[host."http://{mirror.host}"]')
        store = await open_store(registries=quick(tmp_path))
        mirror.faults.append(Fault("/manifests/", cut=0))
        built = app()
        mirror.add(built, "a", "1")
        await store.pull(fake_registry.add(built, "a", "1"))
        layers = [build.digest(layer.blob) for layer in built.layers]
        assert not [path for layer in layers for path in mirror.paths(layer)]


async def test_a_download_goes_on_at_the_next_endpoint(
    open_store: OpenStore, fake_registry: FakeRegistry, tmp_path: Path
) -> None:
    with FakeRegistry() as mirror:
        mirrored(tmp_path, "_default", f'[host."http://{mirror.host}"]')
        store = await open_store(registries=quick(tmp_path))
        built = build.image(tar(file("noise", os.urandom(2_000_000))))
        name = fake_registry.add(built, "a", "1")
        mirror.add(built, "a", "1")
        blob = build.digest(built.layers[0].blob)
        mirror.faults.append(Fault(blob, times=1, cut=500_000))
        mirror.faults.append(Fault(blob, status=500))
        await store.pull(name)
        ranges = [seen.headers.get("range", "") for seen in fake_registry.requests]
        assert any(text.startswith("bytes=") for text in ranges)


def mirrored(folder: Path, host: str, text: str) -> None:
    (folder / "certs.d" / host).mkdir(parents=True)
    (folder / "certs.d" / host / "hosts.toml").write_text(text)


def quick(folder: Path) -> RegistrySettings:
    return RegistrySettings(
        hosts_dir=str(folder / "certs.d"), retry_delay=0.01, attempts=3, connect_timeout=5
    )
