"""CRI's socket: by path, abstract, or passed by systemd; and for root alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from cri.api import api_pb2 as api
from cri.listen import CantListen, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

BIG = 12 << 20
LIMITS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


async def _echo(request: api.PullImageRequest, context: object) -> api.PullImageResponse:
    return api.PullImageResponse(image_ref=request.image.image)


def _server() -> grpc.aio.Server:
    server = grpc.aio.server(options=LIMITS)
    handler = grpc.unary_unary_rpc_method_handler(
        _echo, api.PullImageRequest.FromString, api.PullImageResponse.SerializeToString
    )
    table = grpc.method_handlers_generic_handler("test", {"Echo": handler})
    server.add_generic_rpc_handlers((table,))
    return server


@contextlib.asynccontextmanager
async def _serving(
    endpoint: str, state: Path, passed: Sequence[socket.socket] = ()
) -> AsyncIterator[None]:
    server = _server()
    async with await listen(server, endpoint, state, passed):
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)


async def _ask(address: str, text: str = "hello") -> str:
    async with grpc.aio.insecure_channel(address, options=LIMITS) as channel:
        method = channel.unary_unary(
            "/test/Echo",
            request_serializer=api.PullImageRequest.SerializeToString,
            response_deserializer=api.PullImageResponse.FromString,
        )
        request = api.PullImageRequest(image=api.ImageSpec(image=text))
        answer: api.PullImageResponse = await method(request, timeout=20)
        return answer.image_ref


@pytest.mark.parametrize("prefix", ["unix://", "unix:"])
async def test_a_socket_by_path_is_for_root_and_its_group_and_goes_away(
    tmp_path: Path, prefix: str
) -> None:
    path = tmp_path / "made" / "p.sock"
    before = os.umask(0)
    os.umask(before)
    async with _serving(f"{prefix}{path}", tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert await _ask(f"unix:{path}") == "hello"
    assert not path.exists()
    assert os.umask(before) == before


async def test_a_socket_that_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with _serving(f"unix://{path}", tmp_path):
        assert await _ask(f"unix:{path}") == "hello"


async def test_a_socket_that_is_served_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    async with _serving(f"unix://{path}", tmp_path):
        with pytest.raises(CantListen, match="another program serves this socket"):
            await listen(_server(), f"unix://{path}", tmp_path)
        assert await _ask(f"unix:{path}") == "hello"


async def test_a_path_that_is_too_long_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(CantListen, match="too long for a unix socket"):
        await listen(_server(), f"unix://{tmp_path}/{'x' * 108}", tmp_path)


@pytest.mark.parametrize("form", ["unix-abstract:{}", "unix://@{}"])
async def test_an_abstract_address_serves_whole_messages(tmp_path: Path, form: str) -> None:
    name = f"podwright-test-{os.getpid()}"
    async with _serving(form.format(name), tmp_path):
        assert await _ask(f"unix-abstract:{name}") == "hello"
        assert len(await _ask(f"unix-abstract:{name}", "x" * BIG)) == BIG
    assert os.listdir(tmp_path) == []


async def test_an_abstract_address_that_is_taken_is_told_as_such(tmp_path: Path) -> None:
    name = f"podwright-test-{os.getpid()}"
    async with _serving(f"unix-abstract:{name}", tmp_path):
        (tmp_path / "other").mkdir()
        with pytest.raises(CantListen, match="Address already in use"):
            await listen(_server(), f"unix-abstract:{name}", tmp_path / "other")
    assert os.listdir(tmp_path / "other") == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
async def test_only_root_may_use_an_abstract_address(tmp_path: Path) -> None:
    name = f"podwright-test-{os.getpid()}"
    program = f"""
import os, socket
os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.settimeout(10)
s.connect("\\0{name}")
try:
    s.send(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n")
    print(s.recv(100))
except ConnectionError:
    print(b"")
"""
    async with _serving(f"unix-abstract:{name}", tmp_path):
        asked = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=subprocess.PIPE
        )
        output, _ = await asked.communicate()
        assert output == b"b''\n"
        assert await _ask(f"unix-abstract:{name}") == "hello"


async def test_a_socket_that_systemd_passed_is_served_instead_of_the_address(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "activated.sock", tmp_path / "p.sock"
    passed = socket.socket(socket.AF_UNIX)
    passed.bind(str(path))
    passed.listen()
    early = asyncio.create_task(_ask(f"unix:{path}", "came before the daemon"))
    await asyncio.sleep(0)
    async with _serving(f"unix://{other}", tmp_path, [passed]):
        assert await early == "came before the daemon"
        answers = await asyncio.gather(*(_ask(f"unix:{path}", str(n)) for n in range(20)))
        assert answers == [str(n) for n in range(20)]
        assert len(await _ask(f"unix:{path}", "x" * BIG)) == BIG
        assert not other.exists()
        inner = tmp_path / "relay.sock"
        assert stat.S_IMODE(inner.stat().st_mode) == 0o660
