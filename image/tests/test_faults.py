"""Registries that misbehave: what is tried again, what fails, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from image.errors import (
    DigestMismatch,
    ImageFault,
    LayerMalformed,
    ManifestUnknown,
    PullCancelled,
    ReferenceMalformed,
    RegistryBusy,
    RegistryDenied,
    RegistryUnavailable,
    UnsupportedImage,
)
from image.store import ImageStore
from image.tests import build
from image.tests.build import app, file, tar
from image.tests.conftest import OpenStore, free_port
from image.tests.invariants import check, tree
from image.tests.registry import FakeRegistry, Fault

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    "fault",
    [
        Fault("/manifests/", times=1, status=503),
        Fault("/blobs/", times=2, status=500, body=b"oops"),
        Fault("/blobs/", times=1, status=429, headers={"Retry-After": "0"}),
        Fault("/blobs/", times=2, cut=0),
        Fault("/blobs/", times=3, cut=100),
        Fault("/manifests/", times=1, cut=10, method="GET"),
    ],
)
async def test_what_passes_is_tried_again(
    store: ImageStore, fake_registry: FakeRegistry, fault: Fault
) -> None:
    name = fake_registry.add(app(), "a", "1")
    fake_registry.faults.append(Fault(**vars(fault)))
    await store.pull(name)
    check(store)


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_broken_download_goes_on_where_it_broke(
    store: ImageStore, fake_registry: FakeRegistry, ranges: bool
) -> None:
    noise = os.urandom(3_000_000)
    name = fake_registry.add(build.image(tar(file("noise", noise))), "a", "1")
    fake_registry.ranges = ranges
    fake_registry.faults.append(Fault("/blobs/", times=4, cut=1_000_000))
    image = await store.pull(name)
    lower = store.prepare(image.id, "c").lower[0]
    assert (Path(lower) / "noise").read_bytes() == noise
    starts = [
        seen.headers.get("range") for seen in fake_registry.requests if "/blobs/" in seen.path
    ]
    assert len([start for start in starts if start]) >= 2
    check(store)


async def test_a_registry_that_asks_to_wait_is_waited_for(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    name = fake_registry.add(app(), "a", "1")
    waits = {"Retry-After": "1"}
    fake_registry.faults.append(
        Fault("/manifests/", times=1, status=429, headers=waits, method="GET")
    )
    loop = asyncio.get_running_loop()
    start = loop.time()
    await store.pull(name)
    assert loop.time() - start >= 1


async def test_a_wait_too_long_is_said_at_once(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    name = fake_registry.add(app(), "a", "1")
    body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "rate limit"}]}'
    waits = {"Retry-After": "3600"}
    fake_registry.faults.append(Fault("/manifests/", status=429, headers=waits, body=body))
    with pytest.raises(RegistryBusy, match=r"TOOMANYREQUESTS: rate limit.*wait 3600 s") as caught:
        await store.pull(name)
    assert caught.value.retry_after == 3600
    check(store)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault("/manifests/", status=500), RegistryUnavailable, "500"),
        (Fault("/manifests/", status=403), RegistryDenied, "403"),
        (Fault("/blobs/", status=404), ManifestUnknown, "blob sha256:.* 404"),
        (Fault("/blobs/", cut=0), RegistryUnavailable, "connection broke|ended after"),
        (Fault("/blobs/", replace=b"evil"), RegistryUnavailable, "ended after 4 of"),
        (Fault("/manifests/", replace=b"{}"), DigestMismatch, "expected sha256"),
        (
            Fault("/manifests/", status=302, headers={"Location": "ftp://x/"}),
            RegistryUnavailable,
            "ftp",
        ),
        (
            Fault("/manifests/", redirect="http://127.0.0.1:1"),
            RegistryUnavailable,
            "connection refused",
        ),
    ],
)
async def test_a_failed_pull_says_why_and_leaves_nothing(
    store: ImageStore,
    fake_registry: FakeRegistry,
    fault: Fault,
    error: type[ImageFault],
    words: str,
) -> None:
    name = fake_registry.add(app(), "a", "1")
    fake_registry.faults.append(fault)
    with pytest.raises(error, match=words) as caught:
        await store.pull(name)
    assert fake_registry.host in str(caught.value)
    assert store.list() == ()
    assert store.pulls() == ()
    check(store)


async def test_wrong_bytes_of_the_right_length_are_found(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    built = app()
    name = fake_registry.add(built, "a", "1")
    blob = built.layers[1].blob
    wrong = blob[:-30] + bytes(30)
    fake_registry.faults.append(Fault(build.digest(blob), replace=wrong))
    with pytest.raises(DigestMismatch, match="a, layer 2") as caught:
        await store.pull(name)
    assert caught.value.expected == build.digest(blob)
    assert tree(store) == []
    check(store)


async def test_a_layer_that_is_not_its_diff_id_is_refused(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    wrong = build.digest(b"something else")
    built = build.image(tar(file("f")), top={"rootfs": {"type": "layers", "diff_ids": [wrong]}})
    with pytest.raises(DigestMismatch, match="unpacked") as caught:
        await store.pull(fake_registry.add(built, "a", "1"))
    assert caught.value.expected == wrong
    check(store)


async def test_a_hostile_layer_fails_the_pull_and_leaves_nothing(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    built = build.image(tar(file("fine")), tar(file("../../escape")))
    with pytest.raises(LayerMalformed, match=r"a, layer 2 .*'\.\.'"):
        await store.pull(fake_registry.add(built, "a", "1"))
    assert tree(store) == []
    check(store)


async def test_unknown_names_and_platforms_are_told_apart(
    store: ImageStore, fake_registry: FakeRegistry, real_registry: str
) -> None:
    for host in (fake_registry.host, real_registry):
        with pytest.raises(ManifestUnknown, match=r"MANIFEST_UNKNOWN|NAME_UNKNOWN"):
            await store.pull(f"{host}/none:1")
    foreign = build.image(tar(), platform={"os": "linux", "architecture": "s390x"})
    with pytest.raises(UnsupportedImage, match="s390x"):
        await store.pull(fake_registry.add(foreign, "z", "1"))
    with pytest.raises(ReferenceMalformed):
        await store.pull("NOT A NAME")
    check(store)


async def test_an_unreachable_registry_is_named(store: ImageStore) -> None:
    with pytest.raises(RegistryUnavailable, match=r"127.0.0.1:.*connection refused"):
        await store.pull(f"127.0.0.1:{free_port()}/a:1")
    with pytest.raises(RegistryUnavailable, match=r"https://nowhere.invalid"):
        await store.pull("nowhere.invalid/a:1")


async def test_a_page_in_place_of_a_manifest_is_told_from_one(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    page = {"Content-Type": "text/html; charset=utf-8"}
    name = fake_registry.add(app(), "a", "1")
    fake_registry.faults.append(Fault("/manifests/", status=200, headers=page, body=b"<html>"))
    with pytest.raises(RegistryUnavailable, match="a page and no manifest"):
        await store.pull(name)
    check(store)


async def test_a_pull_that_makes_no_progress_is_given_up(
    open_store: OpenStore, fake_registry: FakeRegistry
) -> None:
    store = await open_store(progress_timeout=0.5)
    fake_registry.faults.append(Fault("/blobs/", hold=threading.Event()))
    with pytest.raises(PullCancelled, match="no progress"):
        await store.pull(fake_registry.add(app(), "a", "1"))
    assert tree(store) == []


async def test_a_cancelled_pull_ends_its_work(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fault = Fault("/blobs/", hold=threading.Event())
    fake_registry.faults.append(fault)
    name = fake_registry.add(app(), "a", "1")
    pull = asyncio.create_task(store.pull(name))
    await fault.arrival()
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert store.pulls() == ()
    assert tree(store) == []
    check(store)


async def test_who_stays_gets_the_image_when_another_gives_up(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fault = Fault("/blobs/", hold=threading.Event())
    fake_registry.faults.append(fault)
    name = fake_registry.add(app(), "a", "1")
    gone, stays = (asyncio.create_task(store.pull(name)) for _ in range(2))
    await fault.arrival()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    fault.release()
    assert (await stays).names == (name,)
    check(store)
