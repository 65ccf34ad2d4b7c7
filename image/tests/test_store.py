"""The store between pulls: names, snapshots, garbage, archives, and what it finds when it opens."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from image.errors import (
    ImageFault,
    ImageNotFound,
)
from image.store import ImageStore
from image.tests import build
from image.tests.build import file, folder, tar
from image.tests.conftest import OpenStore
from image.tests.invariants import check, root_of, tree
from image.tests.registry import FakeRegistry, Fault

pytestmark = pytest.mark.root


def app(text: bytes = b"one") -> build.BuiltImage:
    return build.image(tar(file("base", b"b")), tar(file("app", text)))


def is_directory(path: str) -> bool:
    return Path(path).is_dir()


def write(path: Path) -> None:
    path.write_text("x")


async def imported(store: ImageStore, built: build.BuiltImage, name: str = "team/app:1") -> str:
    """The id of an image that came by an archive: quicker than through a registry."""
    path = root_of(store).parent / f"layout-{built.digest[7:19]}"
    if not path.exists():
        build.layout([(built, {})], path)
    (image,) = await store.import_archive(path, name=name)
    return image.id


# --- removal and garbage --------------------------------------------------------------------------


async def test_removing_by_any_name_removes_the_image_and_its_layers(store: ImageStore) -> None:
    image_id = await imported(store, app())
    await imported(store, app(), "other:2")
    assert len(tree(store)) == 2
    await store.remove("team/app:1")
    assert store.list() == ()
    assert store.find(image_id) is None
    assert tree(store) == []
    await store.remove("team/app:1")
    await store.remove("NOT A NAME")
    check(store)


async def test_layers_stay_as_long_as_an_image_or_a_container_has_them(store: ImageStore) -> None:
    one = await imported(store, app(b"one"), "one")
    await imported(store, app(b"two"), "two")
    assert len(tree(store)) == 3
    overlay = store.prepare(one, "c1")
    await store.remove("one")
    assert len(tree(store)) == 3
    assert all(is_directory(lower) for lower in overlay.lower)
    await store.discard("c1")
    assert len(tree(store)) == 2
    check(store)


async def test_concurrent_removals_all_succeed(store: ImageStore) -> None:
    await imported(store, app())
    await asyncio.gather(*(store.remove("team/app:1") for _ in range(5)))
    assert store.list() == ()
    check(store)


async def test_documents_of_removed_images_go_too(store: ImageStore) -> None:
    image_id = await imported(store, app())
    await store.remove(image_id)
    assert os.listdir(root_of(store) / "content/blobs/sha256") == []


async def test_blobs_are_kept_when_asked_for_and_used_again(
    open_store: OpenStore, fake_registry: FakeRegistry
) -> None:
    store = await open_store(keep_blobs=True)
    built = app()
    name = fake_registry.add(built, "a", "1")
    await store.pull(name)
    blobs = os.listdir(root_of(store) / "content/blobs/sha256")
    assert {f"sha256:{blob}" for blob in blobs} == {*built.blobs, built.digest}
    check(store)


async def test_usage_is_what_the_layers_take(store: ImageStore) -> None:
    before = store.usage()
    assert before.images.bytes == 0
    data = os.urandom(1_000_000)
    await imported(store, build.image(tar(file("f", data), folder("d"))))
    usage = store.usage()
    assert 1_000_000 <= usage.images.bytes < 1_020_000
    assert usage.images.inodes == 3 + 2
    assert usage.timestamp > 0
    assert is_directory(usage.images.mountpoint)
    assert usage.containers.mountpoint == usage.images.mountpoint  # else: two disks, to kubelet
    assert store.list()[0].size >= 1_000_000
    await store.remove("team/app:1")
    assert store.usage().images.bytes == 0


async def test_pinned_images_are_marked(open_store: OpenStore) -> None:
    store = await open_store(pinned=("docker.io/team/*",))
    await imported(store, app(b"one"))
    await imported(store, app(b"two"), "other")
    assert [image.pinned for image in store.list()] == [True, False]


# --- snapshots ------------------------------------------------------------------------------------


async def test_a_container_gets_its_own_writable_layer(store: ImageStore) -> None:
    built = build.image(tar(folder("./", mode=0o750, uid=5, gid=6), file("a")), tar(file("b")))
    image_id = await imported(store, built)
    one, two = store.prepare(image_id, "c1"), store.prepare(image_id, "c2")
    assert one.lower == two.lower
    assert [os.listdir(lower) for lower in one.lower] == [["b"], ["a"]]
    assert one.upper != two.upper
    assert len(one.lower[0]) < len(str(root_of(store))) + 12
    status = os.stat(one.upper)
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o750, 5, 6)
    assert store.prepare(image_id, "c1") == one == store.snapshot("c1")
    assert store.snapshot("c3") is None
    with pytest.raises(ImageNotFound, match="pull or import it first"):
        store.prepare("sha256:" + "0" * 64, "c3")


async def test_a_root_directory_is_its_owners_whose_users_begin_elsewhere(
    store: ImageStore,
) -> None:
    image_id = await imported(store, app())
    status = os.stat(store.prepare(image_id, "c1", (70000, 80000)).upper)
    assert (status.st_uid, status.st_gid) == (70000, 80000)


async def test_an_image_is_held_for_a_volume_as_long_as_its_container_is_there(
    store: ImageStore,
) -> None:
    image_id = await imported(store, app())
    lower = store.prepare(image_id, "c1").lower
    store.hold(image_id, "c1.0")
    store.hold(image_id, "c1.1")
    await store.remove(image_id)
    await store.collect({"c1"})
    held = store.snapshot("c1.1")
    assert held is not None
    assert held.lower == lower
    assert all(map(os.path.isdir, lower))
    await store.discard("c1")
    assert store.snapshot("c1.0") is None
    assert not any(map(os.path.isdir, lower))


async def test_an_opaque_root_hides_the_layers_below(store: ImageStore) -> None:
    built = build.image(tar(file("a")), tar(file(".wh..wh..opq"), file("b")), tar(file("c")))
    overlay = store.prepare(await imported(store, built), "c1")
    assert [os.listdir(lower) for lower in overlay.lower] == [["c"], ["b"]]


async def test_discarding_twice_or_nothing_is_fine(store: ImageStore) -> None:
    image_id = await imported(store, app())
    overlay = store.prepare(image_id, "c1")
    write(Path(overlay.upper, "written"))
    for container_id in ("c1", "c1", "c2"):
        await store.discard(container_id)
    assert store.snapshot("c1") is None
    assert os.listdir(root_of(store) / "containers") == []


async def test_snapshots_of_dead_containers_are_collected(store: ImageStore) -> None:
    image_id = await imported(store, app())
    for name in ("c1", "c2", "c3"):
        store.prepare(image_id, name)
    await store.collect({"c2"})
    assert os.listdir(root_of(store) / "containers") == ["c2"]
    assert store.snapshot("c2") is not None


# --- what open finds ------------------------------------------------------------------------------


async def reopened(store: ImageStore, open_store: OpenStore) -> ImageStore:
    await store.close()
    again = await open_store()
    check(again)
    return again


async def test_everything_is_there_again_after_a_restart(
    store: ImageStore, open_store: OpenStore
) -> None:
    image_id = await imported(store, app())
    images, overlay, usage = store.list(), store.prepare(image_id, "c1"), store.usage()
    again = await reopened(store, open_store)
    assert again.list() == images
    assert again.snapshot("c1") == overlay
    assert again.usage().images == usage.images


async def test_a_container_knows_its_image_s_config_when_that_is_removed(
    store: ImageStore, open_store: OpenStore
) -> None:
    image_id = await imported(store, app())
    overlay, config = store.prepare(image_id, "c1"), store.list()[0].config
    await store.remove(image_id)
    again = await reopened(store, open_store)
    assert again.config(image_id, "c1") == config
    assert again.snapshot("c1") == overlay
    await again.discard("c1")
    with pytest.raises(ImageNotFound, match=image_id):
        again.config(image_id, "c1")


async def test_leftovers_are_removed(store: ImageStore, open_store: OpenStore) -> None:
    await imported(store, app())
    root = root_of(store)
    (root / "layers/zz/deep").mkdir(parents=True)
    (root / "tmp/7/half").mkdir(parents=True)
    (root / "tmp/file").write_text("x")
    (root / "containers/half/upper").mkdir(parents=True)
    (root / "containers/torn/upper").mkdir(parents=True)
    (root / "containers/torn/work").mkdir(parents=True)
    (root / "containers/torn/layers").write_text("")
    (root / "content/ingest/part").write_text("x")
    again = await reopened(store, open_store)
    assert len(again.list()) == 1
    await again.close()
    assert os.listdir(root / "tmp") == ["workers.lock"]
    assert os.listdir(root / "containers") == []


async def test_an_image_that_lost_a_layer_is_not_shown_and_can_be_pulled_again(
    store: ImageStore, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    await imported(store, app())
    os.rename(root_of(store) / "layers" / tree(store)[0], root_of(store) / "tmp/lost")
    again = await reopened(store, open_store)
    assert again.list() == ()
    assert "incomplete on disk" in caplog.text
    await imported(again, app())
    check(again)


async def test_an_image_whose_config_is_damaged_is_not_shown(
    store: ImageStore, open_store: OpenStore
) -> None:
    image_id = await imported(store, app())
    (root_of(store) / "content/blobs/sha256" / image_id[7:]).write_text("{}")
    again = await reopened(store, open_store)
    assert again.list() == ()
    assert tree(again) == []


async def test_a_damaged_or_newer_catalog_is_refused_with_a_remedy(
    store: ImageStore, open_store: OpenStore
) -> None:
    path = root_of(store) / "images.db"
    await store.close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ImageFault, match=r"images.db has schema 99, this podwright knows 1"):
        await open_store()
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(
        ImageFault, match=r"images.db: .*remove it and the images will be pulled again"
    ):
        await open_store()


# --- interrupted pulls ---------------------------------------------------------------------------


def lopsided() -> tuple[build.BuiltImage, str]:
    """An image, and its last layer's digest: the small one, which is pulled last."""
    built = build.image(tar(file("big", os.urandom(50_000))), tar(file("small")))
    return built, build.digest(built.layers[1].blob)


async def test_an_interrupted_pull_begins_with_what_it_has(
    open_store: OpenStore, fake_registry: FakeRegistry
) -> None:
    built, last = lopsided()
    name = fake_registry.add(built, "a", "1")
    fault = Fault(last, status=500)
    fake_registry.faults.append(fault)
    store = await open_store()
    with pytest.raises(ImageFault):
        await store.pull(name)
    assert len(tree(store)) == 1
    await store.close()
    again = await open_store()
    assert len(tree(again)) == 1
    fault.times = 0
    fake_registry.requests.clear()
    await again.pull(name)
    layers = {build.digest(layer.blob) for layer in built.layers}
    fetched = {path.rpartition("/")[2] for path in fake_registry.paths("/blobs/")}
    assert fetched & layers == {last}
    check(again)


async def test_an_interrupted_pull_is_forgotten_after_a_while(
    open_store: OpenStore, fake_registry: FakeRegistry
) -> None:
    built, last = lopsided()
    name = fake_registry.add(built, "a", "1")
    fake_registry.faults.append(Fault(last, status=500))
    store = await open_store(interrupted_seconds=0.0)
    with pytest.raises(ImageFault):
        await store.pull(name)
    assert tree(store) == []
    check(store)
