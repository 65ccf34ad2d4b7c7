"""Exec and attach from the client's side: real connections, real clients, real processes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cri.tests.parts import eventually
from cri.tests.sessions import Streams
from e2e.spdy_client import Command, SpdyClient
from e2e.websocket_client import until_said, websocket_client
from runtime.errors import InitFailed

if TYPE_CHECKING:
    import pytest

T = TypeVar("T")

V4, V1 = "v4.channel.k8s.io", "channel.k8s.io"
PLAIN = ("stdin", "stdout", "stderr")
TERMINAL = ("stdin", "stdout", "resize")
SUCCESS = '{"metadata":{},"status":"Success"}'


async def spdy(url: str, play: Callable[[SpdyClient], T], *protocols: str) -> T:
    """Plays a client's part, in a thread."""

    def run() -> T:
        with SpdyClient(url, *(protocols or (V4,))) as client:
            return play(client)

    return await asyncio.to_thread(run)


async def websocket(url: str, play: Callable[[Any], T], protocol: str = "") -> T:
    """The same with Kubernetes' own client for Python."""

    def run() -> T:
        with websocket_client(url, protocol) as client:
            return play(client)

    return await asyncio.to_thread(run)


# the same behaviour behind both protocols


async def test_input_output_half_close_and_exit_code_over_spdy(streams: Streams) -> None:
    def play(client: SpdyClient) -> None:
        command = Command(client, PLAIN)
        command.send(b"hello ")
        command.until_said(b"hello ")
        command.send(b"world")
        command.end_input()
        result = command.result()
        assert (result.stdout, result.stderr) == (b"hello world", b"done\n")
        assert result.exit_code == 3

    await spdy(streams.exec("sh", "-c", "cat; echo done >&2; exit 3"), play)


async def test_input_output_half_close_and_exit_code_over_websocket(streams: Streams) -> None:
    def play(client: Any) -> None:
        assert client.subprotocol == "v5.channel.k8s.io"
        client.write_stdin(b"hello ")
        until_said(client, b"hello ")
        client.write_stdin(b"world")
        client.close_channel(0)
        client.run_forever(timeout=10)
        assert client.read_channel(1) == b"world"
        assert client.read_channel(2) == b"done\n"
        assert client.returncode == 3

    await websocket(streams.exec("sh", "-c", "cat; echo done >&2; exit 3"), play)


async def test_a_terminal_has_a_size_that_changes_over_spdy(streams: Streams) -> None:
    def play(client: SpdyClient) -> None:
        command = Command(client, TERMINAL)
        command.resize(120, 40)
        command.send(b"\n")
        command.until_said(b"40 120")
        command.resize(81, 26)
        command.send(b"\n")
        command.until_said(b"26 81")
        assert command.result().status == SUCCESS

    script = "read x; stty size; read x; stty size"
    await spdy(streams.exec("sh", "-c", script, terminal=True), play)
    assert streams.sessions[0].sizes == [(120, 40), (81, 26)]


async def test_a_terminal_has_a_size_that_changes_over_websocket(streams: Streams) -> None:
    def play(client: Any) -> None:
        client.write_channel(4, b'{"Width":120,"Height":40}')
        client.write_stdin("\n")
        client.run_forever(timeout=10)
        assert b"40 120" in client.read_channel(1)
        assert client.returncode == 0

    await websocket(streams.exec("sh", "-c", "read x; stty size", terminal=True), play, V4)


async def test_what_killed_a_command_shows_in_its_exit_code(streams: Streams) -> None:
    result = await spdy(
        streams.exec("sh", "-c", "kill -9 $$"), lambda c: Command(c, PLAIN).result()
    )
    assert result.exit_code == 137


async def test_old_versions_say_errors_as_text_and_success_by_silence(streams: Streams) -> None:
    for protocol in ("v3.channel.k8s.io", "v2.channel.k8s.io", V1):
        good = streams.exec("true", stdin=False)
        result = await spdy(good, lambda c: Command(c, PLAIN[1:]).result(), protocol)
        assert result.status == ""
        bad = streams.exec("sh", "-c", "exit 7", stdin=False)
        result = await spdy(bad, lambda c: Command(c, PLAIN[1:]).result(), protocol)
        assert result.status == "command terminated with non-zero exit code: exit status 7"


async def test_before_version_3_there_is_no_resize_stream_to_wait_for(streams: Streams) -> None:
    url = streams.exec("echo", "hi", terminal=True)
    result = await spdy(url, lambda c: Command(c, PLAIN[:2]).result(), "v2.channel.k8s.io")
    assert result.stdout == b"hi\r\n"


async def test_a_command_that_can_not_begin_is_told_on_the_error_channel(streams: Streams) -> None:
    error = InitFailed("execve", 2, "'nonsense' is not in $PATH")
    result = await spdy(streams.exec("nonsense", error=error), lambda c: Command(c, PLAIN).result())
    status = result.json()
    assert (status["status"], status["reason"], status["code"]) == ("Failure", "InternalError", 500)
    assert "'nonsense' is not in $PATH" in status["message"]


async def test_a_fault_of_ours_is_told_in_brief_and_logged_with_its_traceback(
    streams: Streams, caplog: pytest.LogCaptureFixture
) -> None:
    url = streams.exec("x", error=KeyError("surprise"))
    result = await spdy(url, lambda c: Command(c, PLAIN).result())
    assert "internal error: KeyError" in result.json()["message"]
    assert any(record.exc_info for record in caplog.records)


async def test_one_line_in_the_log_says_how_a_stream_ended(
    streams: Streams, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await spdy(streams.exec("true"), lambda c: Command(c, PLAIN).result())
    await eventually(streams.all_over)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert line.startswith("exec true over SPDY for 127.0.0.1:")
    assert ": exit code 0 after 0." in line


# a lot, fast and slow


def flood(megabytes: int) -> bytes:
    return bytes(range(256)) * (megabytes * 4096)


async def test_sixteen_mebibytes_go_through_both_ways_unchanged(streams: Streams) -> None:
    data = flood(16)

    def play(client: SpdyClient) -> bytes:
        command = Command(client, PLAIN)

        def send() -> None:
            for begin in range(0, len(data), 32768):
                command.send(data[begin : begin + 32768])
            command.end_input()

        sender = threading.Thread(target=send)
        sender.start()
        result = command.result(60)
        sender.join()
        return result.stdout

    received = await spdy(streams.exec("cat"), play)
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


async def test_a_lot_of_output_arrives_whole_over_websocket(streams: Streams) -> None:
    def play(client: Any) -> int:
        client.run_forever(timeout=60)
        assert client.returncode == 0
        return len(client.read_channel(1))

    url = streams.exec("head", "-c", "30000000", "/dev/zero", stdin=False)
    assert await websocket(url, play, V4) == 30_000_000


async def test_a_slow_client_stops_the_command_and_is_given_everything_at_last(
    streams: Streams,
) -> None:
    count = 40_000_000
    url = streams.exec("head", "-c", str(count), "/dev/zero", stdin=False)
    go_on = threading.Event()

    def play(client: SpdyClient) -> bytes:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        command = Command(client, PLAIN[1:])
        assert go_on.wait(20)
        return command.result(60).stdout

    playing = asyncio.create_task(spdy(url, play))
    await eventually(lambda: bool(streams.sessions))
    process = streams.sessions[0].process

    def written() -> int:
        words = Path(f"/proc/{process.pid}/io").read_text().split()
        return int(words[words.index("wchar:") + 1])

    def blocked() -> bool:
        before = written()
        time.sleep(0.2)
        return 0 < before == written()

    await eventually(lambda: written() > 0)
    while not await asyncio.to_thread(blocked):
        pass
    assert written() < 16 << 20, "socket buffers and a pipe, no more"
    go_on.set()
    assert len(await playing) == count


async def test_a_command_that_does_not_read_stops_its_client(streams: Streams) -> None:
    url = streams.exec("sleep", "1000")

    def play(client: SpdyClient) -> int:
        command = Command(client, PLAIN)
        client.socket.settimeout(0.3)
        return sent_until_stuck(client, frame(client, command, b"x" * 65536))

    assert await spdy(url, play) < 100 << 20


def sent_until_stuck(client: SpdyClient, data: bytes) -> int:
    """How many bytes go out, of the same again and again, until the server reads no more."""
    sent = 0
    try:
        while sent < 400 << 20:
            client.socket.sendall(data)
            sent += len(data)
    except TimeoutError:
        return sent
    raise AssertionError("it takes everything")


def frame(client: SpdyClient, command: Command, data: bytes) -> bytes:
    return client.connection.data_header(command.stream("stdin"), len(data)) + data


async def test_what_a_command_leaves_behind_does_not_keep_the_stream(streams: Streams) -> None:
    url = streams.exec("sh", "-c", "echo out; sleep 100 & exit 5")
    started = time.monotonic()
    result = await spdy(url, lambda c: Command(c, PLAIN).result())
    assert (result.stdout, result.exit_code) == (b"out\n", 5)
    assert 0.9 < time.monotonic() - started < 5


async def test_a_command_that_closes_its_input_goes_on(streams: Streams) -> None:
    def play(client: SpdyClient) -> bytes:
        command = Command(client, PLAIN)
        command.until_said(b"closed")
        for _ in range(100):
            command.send(b"x" * 65536)
        command.end_input()
        return command.result().stdout

    url = streams.exec("sh", "-c", "exec <&-; echo closed; sleep 0.3; echo end")
    assert await spdy(url, play) == b"closed\nend\n"
