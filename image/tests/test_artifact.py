"""Artifacts: files with names, pulled like images, kept as layers, nothing that could run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from image.errors import DigestMismatch, UnsupportedImage
from image.store import ImageStore
from image.tests import build
from image.tests.conftest import OpenStore
from image.tests.invariants import check
from image.tests.registry import FakeRegistry

pytestmark = pytest.mark.root
WEIGHTS = os.urandom(3_000_000)
MODEL = {"weights.bin": WEIGHTS, "config.json": b"{}\n", "archive.tar.gz": b"\x1f\x8bnot unpacked"}


def contents(store: ImageStore, volume: str) -> dict[str, bytes]:
    """What the layers of a volume show together."""
    overlay = store.snapshot(volume)
    assert overlay is not None
    files = [path for lower in overlay.lower for path in Path(lower).iterdir()]
    assert all(path.stat().st_mode == 0o100644 for path in files)
    return {path.name: path.read_bytes() for path in files}


async def test_an_artifact_is_its_files_by_their_titles(
    store: ImageStore, real_registry: str
) -> None:
    built = build.artifact(MODEL)
    build.push(built, real_registry, "team/model", "1")
    image = await store.pull(f"{real_registry}/team/model:1")
    assert image.artifact
    assert image.id == image.manifest == built.digest
    assert image.names == (f"{real_registry}/team/model:1",)
    assert image.digests == (f"{real_registry}/team/model@{built.digest}",)
    assert len(WEIGHTS) <= image.size < len(WEIGHTS) + 50_000
    assert await store.read_config(image.id) == built.manifest
    store.hold(image.id, "c1.0")
    assert contents(store, "c1.0") == MODEL
    check(store)


async def test_an_artifact_survives_the_daemon_and_its_removal_while_it_is_used(
    open_store: OpenStore, fake_registry: FakeRegistry
) -> None:
    first = await open_store()
    image = await first.pull(fake_registry.add(build.artifact(MODEL), "a", "1"))
    first.hold(image.id, "c1.0")
    await first.close()
    store = await open_store()
    assert store.list() == (image,)
    await store.remove(image.id)
    await store.collect(["c1"])
    assert store.list() == ()
    assert contents(store, "c1.0") == MODEL
    await store.discard("c1")
    await store.collect([])
    assert store.usage().images.bytes < 4096
    check(store)


async def test_artifacts_share_files_of_one_name_and_content(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    one = build.artifact(MODEL)
    two = build.artifact({**MODEL, "config.json": b"other"}, note="two")
    three = build.artifact({"renamed.bin": WEIGHTS}, note="three")
    for number, built in enumerate((one, two, three)):
        image = await store.pull(fake_registry.add(built, "a", str(number)))
        store.hold(image.id, f"c{number}.0")
    layers = [store.snapshot(f"c{number}.0") for number in range(3)]
    lower = [set(overlay.lower) for overlay in layers if overlay is not None]
    assert len(lower[0] & lower[1]) == 2
    assert not lower[2] & lower[0]
    assert contents(store, "c2.0") == {"renamed.bin": WEIGHTS}
    assert len(store.list()) == 3  # the empty config, which they share, is nobody's id


async def test_bytes_that_are_not_what_was_promised_leave_nothing(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    built = build.artifact(MODEL)
    built.blobs[build.digest(WEIGHTS)] = WEIGHTS[:-1] + b"x"
    with pytest.raises(DigestMismatch, match=r"file 'weights\.bin'"):
        await store.pull(fake_registry.add(built, "a", "1"))
    assert store.list() == ()
    check(store)


@pytest.mark.parametrize("title", ["../../evil", "/evil", "a/b", "..", "nul\0"])
async def test_a_title_that_leads_elsewhere_is_refused_before_anything_is_fetched(
    store: ImageStore, fake_registry: FakeRegistry, title: str
) -> None:
    name = fake_registry.add(build.artifact({"good": b"1", title: b"evil"}), "a", "1")
    with pytest.raises(UnsupportedImage, match="layer 2 has the title"):
        await store.pull(name)
    assert store.list() == ()
    check(store)


async def test_an_artifact_can_not_be_imported(store: ImageStore, tmp_path: Path) -> None:
    build.layout([(build.artifact(MODEL), {})], tmp_path / "layout")
    with pytest.raises(UnsupportedImage, match="an artifact, which can be pulled, not imported"):
        await store.import_archive(tmp_path / "layout", name="x/y:1")
