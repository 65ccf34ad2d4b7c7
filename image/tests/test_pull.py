"""Pulls through the facade: from Debian's docker-registry, and from one that misbehaves."""

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
from image.settings import RegistrySettings
from image.store import Credentials, ImageStore, PullProgress
from image.tests import build
from image.tests.build import BuiltLayer, file, folder, tar
from image.tests.conftest import OpenStore, free_port
from image.tests.invariants import check, tree
from image.tests.registry import FakeRegistry, Fault

pytestmark = pytest.mark.root


def app(text: bytes = b"one", **fields: object) -> build.BuiltImage:
    base = tar(folder("bin"), file("bin/sh", b"#!", mode=0o755), folder("etc"), file("etc/a", b"a"))
    return build.image(base, tar(folder("etc"), file("etc/app", text), file("etc/.wh.a")), **fields)  # type: ignore[arg-type]


# --- what works -----------------------------------------------------------------------------------


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
    assert seen[-1].fetched == seen[-1].size == sum(len(layer.blob) for layer in built.layers)
    assert [layer.digest for layer in seen[-1].layers] == [
        build.digest(layer.blob) for layer in built.layers
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
    await arrival(fault)
    assert [progress.reference for progress in store.pulls()] == [name]
    release(fault)
    await pull


async def arrival(fault: Fault) -> None:
    """A request has come that is held."""
    assert await asyncio.to_thread(fault.reached.wait, 20)


def release(fault: Fault) -> None:
    assert fault.hold is not None
    fault.hold.set()


# --- authorization --------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize(
    "credentials",
    [
        Credentials("alice", "secret"),
        Credentials(auth="YWxpY2U6c2VjcmV0"),
        Credentials("alice", "secret", server_address="https://HOST/v2/"),
    ],
)
async def test_a_password_opens_the_registry(
    store: ImageStore, fake_registry: FakeRegistry, auth: str, credentials: Credentials
) -> None:
    fake_registry.auth = auth
    name = fake_registry.add(app(), "a", "1")
    address = credentials.server_address.replace("HOST", fake_registry.host)
    given = Credentials(credentials.username, credentials.password, credentials.auth, address)
    await store.pull(name, given)
    check(store)


async def test_tokens_open_a_registry(store: ImageStore, fake_registry: FakeRegistry) -> None:
    fake_registry.auth = "bearer"
    name = fake_registry.add(app(), "a", "1")
    await store.pull(name, Credentials(identity_token="identity"))
    await store.remove(name)
    await store.pull(name, Credentials(registry_token="token-alice"))
    await store.remove(name)
    fake_registry.public = True
    await store.pull(name)


async def test_one_token_serves_a_whole_pull(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fake_registry.auth = "bearer"
    name = fake_registry.add(app(), "a", "1")
    await store.pull(name, Credentials("alice", "secret"))
    assert len(fake_registry.paths("/token")) == 1


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        (Credentials("alice", "wrong"), "asked as alice: 401"),
        (Credentials(), "asked anonymously: 401 .*no credentials were given"),
        (Credentials("alice", "secret", server_address="quay.io"), "asked anonymously"),
        (Credentials("alice", "secret", server_address="127.0.0.1"), "asked anonymously"),
    ],
)
async def test_a_refusal_says_who_asked_whom(
    store: ImageStore,
    fake_registry: FakeRegistry,
    auth: str,
    credentials: Credentials,
    words: str,
) -> None:
    fake_registry.auth = auth
    name = fake_registry.add(app(), "a", "1")
    with pytest.raises(RegistryDenied, match=words) as caught:
        await store.pull(name, credentials)
    assert caught.value.unauthenticated
    assert fake_registry.host in str(caught.value)
    assert len(fake_registry.requests) < 8, "a 401 must not loop"
    check(store)


async def test_an_image_that_is_here_is_not_given_to_who_may_not_have_it(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fake_registry.auth = "bearer"
    name = fake_registry.add(app(), "a", "1")
    await store.pull(name, Credentials("alice", "secret"))
    with pytest.raises(RegistryDenied):
        await store.pull(name)
    assert len(store.list()) == 1


async def test_a_redirect_to_another_host_carries_no_authorization(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fake_registry.auth = "basic"
    with FakeRegistry() as storage:
        built = app()
        name = fake_registry.add(built, "a", "1")
        storage.add(built, "a", "1")
        fake_registry.faults.append(Fault("/blobs/", redirect=f"http://{storage.host}"))
        await store.pull(name, Credentials("alice", "secret"))
        assert len(storage.paths("/blobs/")) == 3
        assert not [seen for seen in storage.requests if "authorization" in seen.headers]
    sent = [seen for seen in fake_registry.requests if "/blobs/" in seen.path]
    assert all("authorization" in seen.headers for seen in sent)


async def test_a_redirect_within_the_registry_keeps_it(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fake_registry.auth = "basic"
    name = fake_registry.add(app(), "a", "1")
    fake_registry.faults.append(Fault("/blobs/", times=1, redirect=f"http://{fake_registry.host}"))
    await store.pull(name, Credentials("alice", "secret"))


# --- faults ---------------------------------------------------------------------------------------


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
    await arrival(fault)
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
    await arrival(fault)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    release(fault)
    assert (await stays).names == (name,)
    check(store)


# --- mirrors --------------------------------------------------------------------------------------


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
