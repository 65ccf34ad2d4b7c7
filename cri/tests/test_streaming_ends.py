"""How streams end: clients that leave, time that runs out, the daemon's end, nonsense."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading

import pytest

from cri.streaming import purpose
from cri.tests.parts import eventually
from cri.tests.sessions import Streams, streaming
from cri.tests.test_streaming_command import PLAIN, sent_until_stuck, spdy, websocket
from e2e.spdy_client import Command, NotUpgraded, SpdyClient
from e2e.websocket_client import until_said


@pytest.mark.parametrize("how", ["close", "reset", "while its input is stuck"])
async def test_a_client_that_leaves_takes_its_command_with_it(streams: Streams, how: str) -> None:
    def play(client: SpdyClient) -> None:
        command = Command(client, PLAIN)
        command.until_said(b"here")
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if how == "while its input is stuck":  # more than a pipe holds, so we read no more
            command.send(b"x" * ((1 << 20) + 100_000))

    await spdy(streams.exec("sh", "-c", "echo here; exec sleep 1000"), play)
    await eventually(streams.all_over)
    assert streams.sessions[0].process.returncode == -9


async def test_a_websocket_that_says_goodbye_takes_its_command_with_it(streams: Streams) -> None:
    await websocket(
        streams.exec("sh", "-c", "echo here; exec sleep 1000"),
        lambda client: until_said(client, b"here\n"),
    )
    await eventually(streams.all_over)


async def test_the_end_of_the_daemon_ends_all_streams_and_says_so() -> None:
    ready = threading.Event()

    def play(client: SpdyClient) -> str:
        command = Command(client, PLAIN)
        command.until_said(b"here")
        ready.set()
        return command.result().status

    async with streaming() as streams:
        playing = asyncio.create_task(spdy(streams.exec("sh", "-c", "echo here; sleep 99"), play))
        await asyncio.to_thread(ready.wait, 20)
    assert "podwright is ending" in await playing


async def test_silence_ends_a_stream_after_the_idle_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with streaming(idle_timeout=0.3) as streams:

        def play(client: SpdyClient) -> None:
            Command(client, PLAIN)
            while client.read():
                pass

        await spdy(streams.exec("sleep", "1000"), play)
        await eventually(streams.all_over)
    assert "nothing was sent for 0.3 s" in caplog.text


async def test_a_client_that_opens_too_few_streams_is_sent_away(
    streams: Streams, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def play(client: SpdyClient) -> None:
        Command(client, PLAIN[:1])
        while client.read():
            pass

    await spdy(streams.exec("true", creation_timeout=0.2), play)
    await eventually(streams.all_over)
    assert streams.sessions == []
    assert "has not opened its streams in 0.2 s" in caplog.text


async def test_garbage_after_the_upgrade_ends_the_stream(streams: Streams) -> None:
    def play(client: SpdyClient) -> None:
        client.socket.sendall(b"\x80\x02" + b"garbage" * 10)
        while client.read():
            pass

    await spdy(streams.exec("cat"), play)
    await eventually(streams.all_over)


async def test_a_client_that_never_reads_answers_can_not_make_us_keep_them(
    streams: Streams,
) -> None:
    def play(client: SpdyClient) -> int:
        Command(client, PLAIN)
        ping = struct.pack(">HHII", 0x8003, 6, 4, 1) * 4096
        client.socket.settimeout(0.5)
        return sent_until_stuck(client, ping)

    assert await spdy(streams.exec("sleep", "1000"), play) < 100 << 20


async def test_work_that_must_be_done_is_done_however_often_it_is_cancelled() -> None:
    gate = asyncio.Event()
    done = []

    async def work() -> None:
        await gate.wait()
        done.append(True)

    task = asyncio.create_task(purpose.uninterrupted(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


async def test_a_protocol_that_nobody_serves_is_refused(streams: Streams) -> None:
    with pytest.raises(NotUpgraded, match="v9") as raised:
        await spdy(streams.exec("true"), lambda _: None, "v9.channel.k8s.io")
    assert raised.value.status == 403
    assert raised.value.headers["x-accepted-stream-protocol-versions"]
