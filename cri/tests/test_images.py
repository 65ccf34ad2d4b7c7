"""Images over CRI: pulled, listed, told and removed as kubelet expects."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from typing import TYPE_CHECKING

import grpc
import pytest

from cri.api import api_pb2 as api
from cri.tests.parts import call, eventually, parts, serving
from image.tests.build import digest, file, image, layout, tar
from image.tests.registry import FakeRegistry, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from cri.rpc.services import Services

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: unpacks layers"),
]
IMAGES = "runtime.v1.ImageService"
BUILT = image(tar(file("hello", b"world")), config={"User": "1000:1000", "Cmd": ["sh"]})


class Kubelet:
    """The image service's client."""

    def __init__(self, channel: grpc.aio.Channel, services: Services) -> None:
        self.channel = channel
        self.services = services

    async def pull(self, reference: str, auth: api.AuthConfig | None = None) -> str:
        request = api.PullImageRequest(image=api.ImageSpec(image=reference), auth=auth)
        answer = await call(self.channel, f"{IMAGES}/PullImage", request, api.PullImageResponse)
        return answer.image_ref

    async def status(self, text: str, *, verbose: bool = False) -> api.ImageStatusResponse:
        request = api.ImageStatusRequest(image=api.ImageSpec(image=text), verbose=verbose)
        return await call(self.channel, f"{IMAGES}/ImageStatus", request, api.ImageStatusResponse)

    async def list(self, text: str = "") -> list[api.Image]:
        wanted = api.ImageFilter(image=api.ImageSpec(image=text))
        request = api.ListImagesRequest(filter=wanted)
        answer = await call(self.channel, f"{IMAGES}/ListImages", request, api.ListImagesResponse)
        return list(answer.images)

    async def remove(self, text: str) -> None:
        request = api.RemoveImageRequest(image=api.ImageSpec(image=text))
        await call(self.channel, f"{IMAGES}/RemoveImage", request, api.RemoveImageResponse)

    async def refused(self, reference: str, auth: api.AuthConfig | None = None) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.pull(reference, auth)
        return raised.value.code().name, raised.value.details() or ""


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[Kubelet]:
    async with parts(tmp_path) as services, serving(services) as channel:
        yield Kubelet(channel, services)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as made:
        yield made


async def test_a_pulled_image_is_known_by_one_id_and_found_by_every_name(
    kubelet: Kubelet, registry: FakeRegistry
) -> None:
    reference = registry.add(BUILT, "team/app", "1")
    image_id = await kubelet.pull(reference)
    assert image_id == BUILT.id
    names = [
        reference,
        f"{registry.host}/team/app@{BUILT.digest}",
        image_id,
        image_id.removeprefix("sha256:"),
        image_id.removeprefix("sha256:")[:12],
    ]
    for name in names:
        found = (await kubelet.status(name)).image
        assert found.id == image_id, name
        assert [one.id for one in await kubelet.list(name)] == [image_id]
    assert list(found.repo_tags) == [reference]
    assert list(found.repo_digests) == [f"{registry.host}/team/app@{BUILT.digest}"]
    assert found.size >= 1
    assert (found.uid.value, found.username) == (1000, "")
    assert not found.pinned


async def test_the_user_of_an_image_is_a_number_or_a_name_never_both(
    kubelet: Kubelet, registry: FakeRegistry
) -> None:
    named = image(tar(file("a")), config={"User": "web:staff"})
    image_id = await kubelet.pull(registry.add(named, "named", "1"))
    found = (await kubelet.status(image_id)).image
    assert (found.HasField("uid"), found.username) == (False, "web")
    nobody = image(tar(file("b")))
    found = (await kubelet.status(await kubelet.pull(registry.add(nobody, "nobody", "1")))).image
    assert (found.HasField("uid"), found.username) == (False, "")


async def test_an_image_that_is_not_here_is_an_empty_answer_not_an_error(kubelet: Kubelet) -> None:
    for name in ("busybox", "sha256:" + "0" * 64, "0" * 64, "abc", "Not A Reference", ""):
        assert not (await kubelet.status(name)).HasField("image"), name
    assert await kubelet.list("busybox") == []
    assert await kubelet.list() == []


async def test_verbose_status_has_the_images_config(
    kubelet: Kubelet, registry: FakeRegistry
) -> None:
    image_id = await kubelet.pull(registry.add(BUILT, "app", "1"))
    info = json.loads((await kubelet.status(image_id, verbose=True)).info["info"])
    assert info["imageSpec"]["config"]["Cmd"] == ["sh"]
    assert info["manifest"] == BUILT.digest
    assert not (await kubelet.status(image_id)).info


async def test_removing_takes_all_names_and_may_be_repeated(
    kubelet: Kubelet, registry: FakeRegistry
) -> None:
    await kubelet.pull(registry.add(BUILT, "app", "1"))
    await kubelet.pull(registry.add(BUILT, "app", "2"))
    (listed,) = await kubelet.list()
    assert len(listed.repo_tags) == 2
    await asyncio.gather(*(kubelet.remove(tag) for tag in listed.repo_tags))
    assert await kubelet.list() == []
    await kubelet.remove(listed.id)
    await kubelet.remove("never/was:here")


async def test_credentials_reach_the_registry(kubelet: Kubelet, registry: FakeRegistry) -> None:
    registry.auth = "basic"
    reference = registry.add(BUILT, "app", "1")
    code, text = await kubelet.refused(reference)
    assert code == "PERMISSION_DENIED"
    assert registry.host in text
    auth = api.AuthConfig(username="alice", password="secret")
    assert await kubelet.pull(reference, auth) == BUILT.id


async def test_pulling_what_can_not_be_pulled_says_why_with_the_code_that_kubelet_knows(
    kubelet: Kubelet, registry: FakeRegistry
) -> None:
    code, text = await kubelet.refused("Not A Reference")
    assert (code, "Not A Reference" in text) == ("INVALID_ARGUMENT", True)
    assert (await kubelet.refused(""))[0] == "INVALID_ARGUMENT"
    code, text = await kubelet.refused(f"{registry.host}/no/such:1")
    assert (code, "no/such" in text) == ("NOT_FOUND", True)
    code, text = await kubelet.refused("127.0.0.1:1/app:1")
    assert code == "UNKNOWN"
    assert text.startswith("RegistryUnavailable: ")
    assert "127.0.0.1:1" in text
    reference = registry.add(BUILT, "app", "1")
    (layer,) = BUILT.layers
    other = bytes(len(layer.blob))
    registry.faults.append(Fault(f"/blobs/{digest(layer.blob)}", replace=other))
    assert (await kubelet.refused(reference))[0] == "DATA_LOSS"
    assert await kubelet.list() == []
    assert [t.code for t in kubelet.services.recorder.recent()][-1] == "DATA_LOSS"


async def test_requests_for_the_same_image_join_one_pull(
    kubelet: Kubelet, registry: FakeRegistry
) -> None:
    reference = registry.add(BUILT, "app", "1")
    hold = threading.Event()
    registry.faults.append(Fault("/blobs/", times=1, hold=hold))
    pulls = [asyncio.create_task(kubelet.pull(reference)) for _ in range(3)]
    await eventually(lambda: len(kubelet.services.busy) == 3)
    await eventually(lambda: len(kubelet.services.images.pulls()) == 1)
    hold.set()
    assert set(await asyncio.gather(*pulls)) == {BUILT.id}
    for layer in BUILT.layers:
        assert len(registry.paths(f"/blobs/{digest(layer.blob)}")) == 1


async def test_the_file_systems_of_images_and_containers_are_told(
    kubelet: Kubelet, registry: FakeRegistry
) -> None:
    await kubelet.pull(registry.add(BUILT, "app", "1"))
    request = api.ImageFsInfoRequest()
    answer = await call(kubelet.channel, f"{IMAGES}/ImageFsInfo", request, api.ImageFsInfoResponse)
    for told in (answer.image_filesystems[0], answer.container_filesystems[0]):
        assert told.timestamp > 0
        assert stat.S_ISDIR(os.stat(told.fs_id.mountpoint).st_mode)
    assert answer.image_filesystems[0].used_bytes.value > 0
    assert answer.image_filesystems[0].inodes_used.value > 0


async def test_people_see_how_a_pull_goes_on(kubelet: Kubelet, registry: FakeRegistry) -> None:
    reference = registry.add(BUILT, "app", "1")
    rpc: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = kubelet.channel.unary_stream(
        "/podwright.v1.Diagnostics/PullImage"
    )
    told = [json.loads(one) async for one in rpc(json.dumps({"image": reference}).encode())]
    assert told[-1]["done"]["id"] == BUILT.id
    assert told[-1]["done"]["names"] == [reference]
    assert all("done" not in one for one in told[:-1])


async def test_giving_up_on_a_watched_pull_ends_it(
    kubelet: Kubelet, registry: FakeRegistry
) -> None:
    reference = registry.add(BUILT, "app", "1")
    registry.faults.append(Fault("/blobs/", hold=threading.Event()))
    rpc: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = kubelet.channel.unary_stream(
        "/podwright.v1.Diagnostics/PullImage"
    )
    watching = rpc(json.dumps({"image": reference}).encode())
    await watching.read()
    assert len(kubelet.services.images.pulls()) == 1
    watching.cancel()
    await eventually(lambda: not kubelet.services.images.pulls())


async def test_an_oci_layout_is_imported_under_a_name(kubelet: Kubelet, tmp_path: Path) -> None:
    layout([(BUILT, {})], tmp_path / "layout")
    rpc: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = kubelet.channel.unary_unary(
        "/podwright.v1.Diagnostics/ImportImage"
    )
    request = {"path": str(tmp_path / "layout"), "name": "localhost/imported:1"}
    (told,) = json.loads(await rpc(json.dumps(request).encode()))["images"]
    assert told["id"] == BUILT.id
    assert (await kubelet.status("localhost/imported:1")).image.id == BUILT.id
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await rpc(json.dumps({"path": str(tmp_path / "none")}).encode())
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
