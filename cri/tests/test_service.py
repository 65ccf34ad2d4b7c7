"""The table of RPCs, and the guard: what a client sees, what the log says, what is remembered."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import grpc
import pytest

from cri import service, trace
from cri.api import api_pb2 as api
from cri.errors import ContainerNotFound, WrongState
from cri.guard import Rpc
from cri.tests.parts import call, parts, serving
from cri.tests.records import container, sandbox
from image.errors import RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from google.protobuf.message import Message

    from cri.rpc.services import Services

RUNTIME = "runtime.v1.RuntimeService"


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with parts(tmp_path) as made:
        yield made


def only(name: str, rpc: Rpc) -> dict[str, dict[str, Rpc]]:
    return {RUNTIME: {name: rpc}}


async def refused(
    services: Services, function: Callable[..., Awaitable[Message]], *, reads: bool = False
) -> grpc.aio.AioRpcError:
    """The error that a client of StartContainer sees when the handler is `function`."""
    table = only("StartContainer", Rpc(function, api.StartContainerRequest, reads=reads))
    async with serving(services, table) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(
                channel,
                f"{RUNTIME}/StartContainer",
                api.StartContainerRequest(container_id="c1"),
                api.StartContainerResponse,
            )
    return raised.value


def test_every_rpc_in_the_table_is_one_of_cri() -> None:
    for name, table in service.TABLES.items():
        methods = api.DESCRIPTOR.services_by_name[name.removeprefix("runtime.v1.")].methods_by_name
        for rpc, entry in table.items():
            assert methods[rpc].input_type.full_name == entry.request.DESCRIPTOR.full_name


async def test_what_is_not_there_yet_says_so_by_name(services: Services) -> None:
    known = [
        (name, method)
        for name in service.TABLES
        for method in api.DESCRIPTOR.services_by_name[name.removeprefix("runtime.v1.")].methods
    ]
    assert len(known) == 43
    async with serving(services, {name: {} for name in service.TABLES}) as channel:
        for name, method in known:
            path = f"/{name}/{method.name}"
            stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
            plain: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            asked = stream(b"").read() if method.server_streaming else plain(b"")
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await asked
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert f"does not implement {method.name} yet" in str(raised.value.details())


async def test_an_answer_may_be_a_message_or_its_bytes(services: Services) -> None:
    whole = api.ListContainersResponse(containers=[api.Container(id="c1")])

    async def as_bytes(services: Services, request: api.ListContainersRequest) -> bytes:
        return whole.SerializeToString()

    table = only("ListContainers", Rpc(as_bytes, api.ListContainersRequest, reads=True))
    async with serving(services, table) as channel:
        request = api.ListContainersRequest()
        method = f"{RUNTIME}/ListContainers"
        assert await call(channel, method, request, api.ListContainersResponse) == whole


async def test_messages_of_more_than_16_mib_pass(services: Services) -> None:
    big = b"x" * (20 << 20)

    async def echo(services: Services, request: api.ExecSyncRequest) -> api.ExecSyncResponse:
        return api.ExecSyncResponse(stdout=request.cmd[0].encode())

    table = only("ExecSync", Rpc(echo, api.ExecSyncRequest))
    async with serving(services, table) as channel:
        request = api.ExecSyncRequest(cmd=[big.decode()])
        answer = await call(channel, f"{RUNTIME}/ExecSync", request, api.ExecSyncResponse)
    assert answer.stdout == big


async def test_an_error_has_the_code_of_its_class_and_its_own_text(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> Message:
        raise WrongState("sandbox s1 is not ready") from OSError("because")

    error = await refused(services, fail)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "sandbox s1 is not ready"
    line = next(record for record in caplog.records if "FAILED_PRECONDITION" in record.message)
    assert line.levelno == logging.WARNING
    assert "StartContainer" in line.message
    assert "(because of OSError('because'))" in line.message
    timeline = services.recorder.recent()[-1]
    assert (timeline.code, timeline.error) == ("FAILED_PRECONDITION", "sandbox s1 is not ready")


async def test_a_fault_of_ours_is_internal_and_its_traceback_stays_in_the_log(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> Message:
        raise KeyError("oops")

    error = await refused(services, fail)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "internal error in StartContainer: KeyError: 'oops'; the log has more"
    assert "Traceback" in caplog.text


async def test_a_prefix_that_kubelet_looks_for_comes_first(services: Services) -> None:
    async def fail(*_: object) -> Message:
        raise RegistryUnavailable("registry.example: no such host")

    error = await refused(services, fail)
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert error.details() == "RegistryUnavailable: registry.example: no such host"


@pytest.mark.parametrize("reads", [True, False])
async def test_what_is_not_found_is_loud_only_where_something_was_to_be_done(
    services: Services, caplog: pytest.LogCaptureFixture, *, reads: bool
) -> None:
    async def fail(*_: object) -> Message:
        raise ContainerNotFound("c1")

    error = await refused(services, fail, reads=reads)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    loud = [r.message for r in caplog.records if r.name == "cri.guard" and r.levelno > 10]
    assert len(loud) == (0 if reads else 1)


async def test_a_refusal_says_in_the_log_what_it_was_about(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> Message:
        raise WrongState("no")

    table = only("RunPodSandbox", Rpc(fail, api.RunPodSandboxRequest))
    request = api.RunPodSandboxRequest(config=sandbox("web").config)
    async with serving(services, table) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, f"{RUNTIME}/RunPodSandbox", request, api.RunPodSandboxResponse)
    (line,) = [r.message for r in caplog.records if r.name == "cri.guard"]
    assert line.startswith("RunPodSandbox: FAILED_PRECONDITION after ")
    assert line.endswith(" ms (default/web): no")


@pytest.mark.parametrize("letter", ["x", "ü", "%"])
async def test_a_text_longer_than_a_header_may_be_is_cut_not_lost(
    services: Services, letter: str
) -> None:
    async def fail(*_: object) -> Message:
        raise WrongState("begin " + letter * 100_000)

    error = await refused(services, fail)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    details = error.details() or ""
    assert details.startswith(f"begin {letter}")
    assert details.endswith(" …")


async def test_a_change_leaves_a_line_in_the_log_and_a_timeline(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def run(services: Services, request: api.RunPodSandboxRequest) -> Message:
        with trace.stage("network"):
            await asyncio.sleep(0)
        return api.RunPodSandboxResponse(pod_sandbox_id="5" * 64)

    table = only("RunPodSandbox", Rpc(run, api.RunPodSandboxRequest))
    request = api.RunPodSandboxRequest(config=sandbox("web").config)
    async with serving(services, table) as channel:
        await call(channel, f"{RUNTIME}/RunPodSandbox", request, api.RunPodSandboxResponse)
    (timeline,) = services.recorder.of_sandbox("5" * 64)
    assert (timeline.rpc, timeline.subject, timeline.code) == (
        "RunPodSandbox",
        "default/web",
        "OK",
    )
    assert [name for name, _, _ in timeline.stages] == ["network"]
    (line,) = [r.message for r in caplog.records if r.name == "cri.guard"]
    assert line.startswith("RunPodSandbox: ok in ")
    assert line.endswith("ms (default/web, sandbox 555555555555)")


async def test_a_change_of_a_container_is_found_by_its_sandbox(services: Services) -> None:
    web = services.store.sandboxes.add(sandbox("web"))
    main = services.store.containers.add(container(web.id, "main"))

    async def remove(services: Services, request: api.RemoveContainerRequest) -> Message:
        services.store.containers.remove(request.container_id)
        return api.RemoveContainerResponse()

    table = only("RemoveContainer", Rpc(remove, api.RemoveContainerRequest))
    request = api.RemoveContainerRequest(container_id=main.id)
    async with serving(services, table) as channel:
        await call(channel, f"{RUNTIME}/RemoveContainer", request, api.RemoveContainerResponse)
    (timeline,) = services.recorder.of_sandbox(web.id)
    assert (timeline.container_id, timeline.subject) == (main.id, "main")


async def test_reading_is_neither_logged_at_info_nor_remembered(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(services) as channel:
        await call(channel, f"{RUNTIME}/Version", api.VersionRequest(), api.VersionResponse)
    assert services.recorder.recent() == ()
    assert [r for r in caplog.records if r.name == "cri.guard"] == []


async def test_a_client_that_gives_up_cancels_the_handler(services: Services) -> None:
    begun, undone = asyncio.Event(), asyncio.Event()

    async def hang(services: Services, request: api.StopContainerRequest) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            undone.set()
        raise AssertionError

    table = only("StopContainer", Rpc(hang, api.StopContainerRequest))
    async with serving(services, table) as channel, asyncio.timeout(20):
        asking = asyncio.create_task(
            call(
                channel,
                f"{RUNTIME}/StopContainer",
                api.StopContainerRequest(container_id="c1"),
                api.StopContainerResponse,
            )
        )
        await begun.wait()
        assert len(services.busy) == 1
        asking.cancel()
        await undone.wait()
    assert services.busy == set()
    assert services.recorder.recent()[-1].code == "CANCELLED"


async def test_our_own_service_speaks_json(services: Services) -> None:
    with services.recorder.record("RunPodSandbox") as timeline:
        trace.about(sandbox_id="a" * 64, subject="default/web")
        timeline.finish("OK")
    with services.recorder.record("StartContainer") as timeline:
        trace.about(sandbox_id="a" * 64)
        timeline.finish("OK")

    async with serving(services) as channel:

        async def ask(method: str, request: object) -> dict[str, object]:
            path = f"/podwright.v1.Diagnostics/{method}"
            rpc: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            answer: dict[str, object] = json.loads(await rpc(json.dumps(request).encode()))
            return answer

        for pod in ("aaaa", "web", "default/web"):
            told = await ask("Trace", {"pod": pod})
            assert isinstance(told["timelines"], list)
            assert [t["rpc"] for t in told["timelines"]] == ["RunPodSandbox", "StartContainer"]
        latest = await ask("Trace", {"limit": 1})
        assert len(str(latest["timelines"]).split("rpc")) == 2
        with pytest.raises(grpc.aio.AioRpcError, match="no sandbox with id 'nobody'"):
            await ask("Trace", {"pod": "nobody"})
        with pytest.raises(grpc.aio.AioRpcError, match="path: expected text, got None"):
            await ask("ImportImage", {})
        with pytest.raises(grpc.aio.AioRpcError, match="is relative"):
            await ask("ImportImage", {"path": "x.tar"})
