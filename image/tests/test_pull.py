"""Pulls that succeed: from Debian's docker-registry and from our own."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from image.store import ImageStore, PullProgress
from image.tests import build
from image.tests.build import BuiltLayer, app, file, folder, tar
from image.tests.conftest import OpenStore
from image.tests.invariants import check
from image.tests.registry import FakeRegistry, Fault

pytestmark = pytest.mark.root


async def test_a_pulled_image_is_listed_and_found_by_all_its_names(
    store: ImageStore, real_registry: str
) -> None:
    built = app()
    build.push(built, real_registry, "team/app", "1")
    image = await store.pull(f"{real_registry}/team/app:1")
    assert image.id == built.id
    assert image.names == (f"{real_registry}/team/app:1",)
    assert image.digests == (f"{real_registry}/team/app@{built.digest}",)
    assert image.config.cmd == ("/bin/true",)
    assert store.list() == (image,)
    bare = built.id.removeprefix("sha256:")
    for text in (*image.names, *image.digests, image.id, bare, bare[:12], f"sha256:{bare[:5]}"):
        assert store.find(text) == image
    for text in ("team/app:1", "00", "fffffffffff", "", "///", f"{real_registry}/team/app"):
        assert store.find(text) is None
    assert await store.read_config(image.id) == built.config
    check(store)


async def test_by_digest_or_through_an_index_it_is_the_same_image(
    store: ImageStore, real_registry: str
) -> None:
    built = app(index=True)
    build.push(built, real_registry, "team/multi", "latest")
    first = await store.pull(f"{real_registry}/team/multi")
    second = await store.pull(f"{real_registry}/team/multi:ignored@{built.digest}")
    third = await store.pull(f"{real_registry}/team/multi@{build.digest(built.manifest)}")
    assert first.id == second.id == third.id == built.id
    assert third.names == (f"{real_registry}/team/multi:latest",)
    assert len(third.digests) == 2
    check(store)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_layers_of_every_compression_are_unpacked(
    store: ImageStore, fake_registry: FakeRegistry, compression: str
) -> None:
    layer = BuiltLayer.of(tar(file("f", b"x" * 100_000)), compression)
    image = await store.pull(fake_registry.add(build.image(layer), "a", "1"))
    overlay = store.prepare(image.id, "c1")
    assert (Path(overlay.lower[0]) / "f").read_bytes() == b"x" * 100_000


async def test_layers_that_images_share_are_fetched_once(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    one, two = app(b"one"), app(b"two")
    await store.pull(fake_registry.add(one, "a", "1"))
    await store.pull(fake_registry.add(two, "b", "1"))
    shared = build.digest(one.layers[0].blob)
    assert len(fake_registry.paths(shared)) == 1
    check(store)


async def test_pulling_again_asks_the_registry_but_fetches_nothing(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    name = fake_registry.add(app(), "a", "1")
    first = await store.pull(name)
    fake_registry.requests.clear()
    assert (await store.pull(name)).id == first.id
    assert [seen.method for seen in fake_registry.requests] == ["HEAD"]


async def test_the_same_pull_at_the_same_time_happens_once(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    name = fake_registry.add(app(), "a", "1")
    images = await asyncio.gather(*(store.pull(name) for _ in range(8)))
    assert len({image.id for image in images}) == 1
    assert len(fake_registry.paths("/blobs/")) == 3
    check(store)


async def test_different_images_at_the_same_time_share_their_layers(
    open_store: OpenStore, fake_registry: FakeRegistry
) -> None:
    store = await open_store(parallel_layers=3)
    images = [app(b"%d" % number) for number in range(4)]
    names = [fake_registry.add(built, f"a{i}", "1") for i, built in enumerate(images)]
    await asyncio.gather(*(store.pull(name) for name in names))
    shared = build.digest(images[0].layers[0].blob)
    assert len(fake_registry.paths(shared)) == 1
    check(store)


async def test_a_tag_that_moves_leaves_the_old_image_its_digest(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    old = await store.pull(fake_registry.add(app(b"old"), "a", "1"))
    new = await store.pull(fake_registry.add(app(b"new"), "a", "1"))
    assert new.id != old.id
    assert store.find(f"{fake_registry.host}/a:1") == new
    left = store.find(old.id)
    assert left is not None
    assert (left.names, left.digests) == ((), old.digests)
    check(store)


async def test_an_image_without_layers_can_be_pulled(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    image = await store.pull(fake_registry.add(build.image(), "scratch", "1"))
    assert image.size == 1
    overlay = store.prepare(image.id, "c")
    assert [os.listdir(lower) for lower in overlay.lower] == [[]]
    check(store)


async def test_an_image_with_the_same_layer_twice_can_be_pulled(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    empty, other = tar(file("same", b"1")), tar(file("same", b"2"))
    image = await store.pull(fake_registry.add(build.image(empty, other, empty), "a", "1"))
    lower = store.prepare(image.id, "c").lower
    assert len(lower) == 2
    assert (Path(lower[0]) / "same").read_bytes() == b"1"
    check(store)


async def test_a_layer_that_needs_those_below_is_settled_on_each_of_them(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    top = tar(file("d/f", b"top"))
    for number, mode in enumerate((0o700, 0o711)):
        built = build.image(tar(folder("d", mode=mode)), top)
        image = await store.pull(fake_registry.add(built, f"a{number}", "1"))
        lower = store.prepare(image.id, f"c{number}").lower
        assert (Path(lower[0]) / "d").stat().st_mode & 0o777 == mode
    check(store)


async def test_progress_ends_with_everything_done(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    seen: list[PullProgress] = []
    built = app()
    await store.pull(fake_registry.add(built, "a", "1"), progress=seen.append)
    assert [seen[0].stage, seen[-1].stage] == ["resolving", "done"]
    assert {layer.state for layer in seen[-1].layers} == {"done"}
    assert [(layer.digest, layer.size, layer.fetched) for layer in seen[-1].layers] == [
        (build.digest(layer.blob), len(layer.blob), len(layer.blob)) for layer in built.layers
    ]
    again: list[PullProgress] = []
    await store.pull(f"{fake_registry.host}/a:1", progress=again.append)
    assert {layer.state for layer in again[-1].layers} == {"present"}
    assert store.pulls() == ()


async def test_a_pull_under_way_is_shown(store: ImageStore, fake_registry: FakeRegistry) -> None:
    fault = Fault("/manifests/", hold=threading.Event())
    fake_registry.faults.append(fault)
    name = fake_registry.add(app(), "a", "1")
    pull = asyncio.create_task(store.pull(name))
    await fault.arrival()
    assert [progress.reference for progress in store.pulls()] == [name]
    fault.release()
    await pull
