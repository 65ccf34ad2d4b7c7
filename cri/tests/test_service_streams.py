"""RPCs that answer in pieces: under the guard of all others, and ended when their client is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from cri.api import api_pb2 as api
from cri.errors import WrongState
from cri.guard import Stream
from cri.tests.parts import parts, serving
from cri.tests.records import container, sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message

    from cri.rpc.services import Services

RUNTIME = "runtime.v1.RuntimeService"


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with parts(tmp_path) as made:
        yield made


def ask(
    channel: grpc.aio.Channel, name: str, request: Message
) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
    """One call whose answers are not taken apart. name: RuntimeService/StreamContainers."""
    stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
        f"/runtime.v1.{name}"
    )
    return stream(request.SerializeToString(), timeout=20)


def served(function: object) -> dict[str, dict[str, Stream]]:
    """A table in which StreamContainers is `function`."""
    stream = Stream(function, api.StreamContainersRequest)  # type: ignore[arg-type]  # of a test
    return {RUNTIME: {"StreamContainers": stream}}


async def test_lists_come_in_batches_with_the_filter_of_lists(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cri.rpc.batches.MOST_ITEMS", 2)
    pods = [services.store.sandboxes.add(sandbox(f"p{n}")).id for n in range(5)]
    for pod in pods[1:]:
        services.store.sandboxes.update(pod, lambda status: status.made(pid=1, ips=()))
    mains = [services.store.containers.add(container(pod)).id for pod in pods]
    async with serving(services) as channel:
        call = ask(channel, "RuntimeService/StreamPodSandboxes", api.StreamPodSandboxesRequest())
        told = [api.StreamPodSandboxesResponse.FromString(batch) async for batch in call]
        assert [[one.id for one in batch.pod_sandboxes] for batch in told] == [pods[1:3], pods[3:]]
        request = api.StreamContainersRequest()
        call = ask(channel, "RuntimeService/StreamContainers", request)
        found = [api.StreamContainersResponse.FromString(batch) async for batch in call]
        assert [one.id for batch in found for one in batch.containers] == mains
        request.filter.pod_sandbox_id = pods[3]
        call = ask(channel, "RuntimeService/StreamContainers", request)
        found = [api.StreamContainersResponse.FromString(batch) async for batch in call]
        assert [[one.id for one in batch.containers] for batch in found] == [[mains[3]]]


async def test_an_empty_list_is_an_end_without_a_message(services: Services) -> None:
    async with serving(services) as channel:
        for name in (
            "RuntimeService/StreamPodSandboxes",
            "RuntimeService/StreamContainers",
            "ImageService/StreamImages",
        ):
            call = ask(channel, name, api.VersionRequest())
            assert [batch async for batch in call] == []
            assert await call.code() is grpc.StatusCode.OK


async def test_an_error_in_the_middle_has_its_code_and_comes_after_what_was_sent(
    services: Services,
) -> None:
    async def fail(*_: object) -> AsyncGenerator[bytes, None]:
        yield b"\x0a\x00"
        raise WrongState("not now")

    async with serving(services, served(fail)) as channel:
        call = ask(channel, "RuntimeService/StreamContainers", api.StreamContainersRequest())
        assert await call.read() == b"\x0a\x00"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert raised.value.details() == "not now"


async def test_a_fault_of_ours_keeps_its_traceback(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> AsyncGenerator[bytes, None]:
        raise KeyError("oops")
        yield b""

    async with serving(services, served(fail)) as channel:
        call = ask(channel, "RuntimeService/StreamContainers", api.StreamContainersRequest())
        with pytest.raises(grpc.aio.AioRpcError, match="the log has more") as raised:
            await call.read()
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert "Traceback" in caplog.text


async def test_a_client_that_goes_ends_the_generator_wherever_it_is(services: Services) -> None:
    for waits in (True, False):  # in our own code, or for the client to take something
        begun, ended = asyncio.Event(), asyncio.Event()

        async def answer(*_: object) -> AsyncGenerator[bytes, None]:
            try:
                begun.set()  # noqa: B023 - called within the turn
                if waits:  # noqa: B023
                    await asyncio.Event().wait()
                while True:
                    yield bytes(1 << 20)
            finally:
                ended.set()  # noqa: B023

        async with serving(services, served(answer)) as channel, asyncio.timeout(20):
            call = ask(channel, "RuntimeService/StreamContainers", api.StreamContainersRequest())
            await begun.wait()
            call.cancel()
            await ended.wait()


async def test_the_client_hears_that_a_stream_has_begun(services: Services) -> None:
    async with serving(services) as channel, asyncio.timeout(20):
        call = ask(channel, "RuntimeService/GetContainerEvents", api.GetEventsRequest())
        await call.initial_metadata()
        pod = services.store.sandboxes.add(sandbox("web"))
        services.store.sandboxes.update(pod.id, lambda status: status.made(pid=1, ips=()))
        created = await anext(aiter(call))
        assert api.ContainerEventResponse.FromString(created).container_id == pod.id
        services.events.close()
        assert len([started async for started in call]) == 1
        assert await call.code() is grpc.StatusCode.OK
