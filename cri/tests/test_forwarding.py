"""Port forwarding from both ends: real clients, our server, and real TCP in place of the pod."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator

import pytest

from cri.endpoint import Endpoint
from cri.streaming import spdy, spdy_events
from cri.streaming.forwarding import PortForward
from cri.streaming.loopback import dial_loopback
from cri.streaming.server import StreamServer, StreamSettings
from cri.tests.forward_stage import (
    CHUNK,
    PATIENCE,
    Pod,
    Stage,
    descriptors,
    never,
    read,
    reset,
    staged,
)
from cri.tests.parts import eventually
from e2e.forward_client import Forwarded, meanwhile
from e2e.spdy_client import NotUpgraded, SpdyClient
from runtime.errors import SandboxNotFound


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


# One connection


async def test_a_pod_answers_after_its_client_has_ended(stage: Stage) -> None:
    def play(client: SpdyClient) -> None:
        connection = Forwarded(client, stage.pod.port)
        connection.send(b"question")
        connection.end()
        pod = stage.pod.accept()
        assert read(pod) == b"question"
        pod.sendall(b"answer")
        pod.close()
        assert connection.answer() == b"answer"
        assert connection.refusal == ""

    await stage.play(play)


async def test_a_client_may_go_on_when_the_pod_has_ended(stage: Stage) -> None:
    def play(client: SpdyClient) -> None:
        connection = Forwarded(client, stage.pod.port)
        pod = stage.pod.accept()
        pod.sendall(b"all that I say")
        pod.shutdown(socket.SHUT_WR)
        assert connection.answer() == b"all that I say"
        assert connection.refusal == "", "and there is no error to wait for"
        connection.send(b"but I ")
        connection.send(b"go on")
        connection.end()
        assert read(pod) == b"but I go on"
        pod.close()

    await stage.play(play)


async def test_a_server_may_speak_first(stage: Stage) -> None:
    def play(client: SpdyClient) -> None:
        connection = Forwarded(client, stage.pod.port)
        pod = stage.pod.accept()
        pod.sendall(b"220 hello")
        assert connection.until_received(9) == b"220 hello"
        pod.close()

    await stage.play(play)


async def test_megabytes_arrive_unaltered_both_ways_at_once(stage: Stage) -> None:
    there, back = os.urandom(1 << 20) * 32, os.urandom(1 << 20) * 32

    def play(client: SpdyClient) -> None:
        connection = Forwarded(client, stage.pod.port)
        pod = stage.pod.accept()

        def send() -> None:
            connection.send(there)
            connection.end()

        def answer() -> None:
            pod.sendall(back)
            pod.shutdown(socket.SHUT_WR)

        threads = [meanwhile(send), meanwhile(answer)]
        got: list[bytes] = []
        threads.append(meanwhile(lambda: got.append(read(pod))))
        assert digest(connection.answer()) == digest(back)
        for thread in threads:
            thread.join(PATIENCE)
        assert digest(got[0]) == digest(there)
        pod.close()

    await stage.play(play)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_port_that_only_listens_on_ipv6_is_found(stage: Stage) -> None:
    pod6 = Pod(socket.AF_INET6)

    def play(client: SpdyClient) -> None:
        connection = Forwarded(client, pod6.port)
        pod = pod6.accept()
        pod.sendall(b"six")
        pod.close()
        assert connection.answer() == b"six"

    await stage.play(play)
    pod6.close()


# Many connections


async def test_a_refused_port_is_told_and_other_connections_live_on(stage: Stage) -> None:
    nobody = Pod()
    nobody.close()

    def play(client: SpdyClient) -> None:
        living = Forwarded(client, stage.pod.port)
        pod = stage.pod.accept()
        refused = Forwarded(client, nobody.port)
        text = f"can't connect to port {nobody.port} of the pod: Connection refused"
        assert refused.refusal == text
        assert refused.answer() == b""
        living.send(b"still there")
        assert read(pod, 11) == b"still there"
        pod.close()

    await stage.play(play)


async def test_a_pod_that_is_gone_is_told(stage: Stage) -> None:
    async def gone(_port: int) -> socket.socket:
        raise SandboxNotFound("abc")

    def play(client: SpdyClient) -> None:
        said = Forwarded(client, 80).refusal
        assert said == "can't connect to port 80 of the pod: sandbox abc has no monitor"

    await stage.play(play, stage.url(dial=gone))


async def test_hundreds_of_connections_share_a_session(stage: Stage) -> None:
    def play(client: SpdyClient) -> None:
        connections = [Forwarded(client, stage.pod.port) for _ in range(300)]
        for number, connection in enumerate(connections):
            connection.send(b"%d" % number)
            connection.end()
        for _ in connections:
            pod = stage.pod.accept()
            pod.sendall(b"you are " + read(pod))
            pod.close()
        for number, connection in enumerate(connections):
            assert connection.answer() == b"you are %d" % number

    await stage.play(play)


async def test_half_a_pair_of_streams_is_not_waited_for_for_ever(stage: Stage) -> None:
    def play(client: SpdyClient) -> None:
        error = client.open({"streamType": "error", "port": "80", "requestID": "1"})
        stream = client.streams[error]
        client.until(lambda: stream.ended)
        assert b"missing" in stream.data

    await stage.play(play, stage.url(creation_timeout=0.05))


# Ends before the time


async def test_a_client_that_gives_a_connection_up_resets_it_for_the_pod(stage: Stage) -> None:
    def play(client: SpdyClient) -> None:
        given_up, kept = Forwarded(client, stage.pod.port), Forwarded(client, stage.pod.port)
        pods = {}
        for connection, name in ((given_up, b"a"), (kept, b"b")):
            connection.send(name)
        for _ in range(2):
            pod = stage.pod.accept()
            pods[read(pod, 1)] = pod
        given_up.reset()
        with pytest.raises(ConnectionResetError):
            pods[b"a"].recv(1)
        assert given_up.refusal == ""
        pods[b"b"].sendall(b"I live")
        assert kept.until_received(6) == b"I live"
        for pod in pods.values():
            pod.close()

    await stage.play(play)


async def test_a_connection_that_the_pod_breaks_off_is_reset_for_the_client(stage: Stage) -> None:
    """Without a text on the error stream, at which kubectl would end the whole session."""

    def play(client: SpdyClient) -> None:
        broken, kept = Forwarded(client, stage.pod.port), Forwarded(client, stage.pod.port)
        broken.send(b"a")
        kept.send(b"b")
        pods = {}
        for _ in range(2):
            pod = stage.pod.accept()
            pods[read(pod, 1)] = pod
        reset(pods[b"a"])
        assert broken.broken_off()
        assert broken.refusal == ""
        pods[b"b"].sendall(b"I live")
        assert kept.until_received(6) == b"I live"
        pods[b"b"].close()

    await stage.play(play)


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_a_client_that_goes_away_leaves_nothing(stage: Stage, how: str) -> None:
    before = descriptors()

    def play(client: SpdyClient) -> None:
        for _ in range(3):
            Forwarded(client, stage.pod.port).send(b"x")
        pods = [stage.pod.accept() for _ in range(3)]
        assert [read(pod, 1) for pod in pods] == [b"x"] * 3
        if how == "resets":
            reset(client.socket)
        client.close()
        for pod in pods:
            with pytest.raises(ConnectionResetError):
                pod.recv(1)
            pod.close()

    await stage.play(play)
    await eventually(lambda: stage.server.open_streams == 0)
    await eventually(lambda: descriptors() == before)


async def test_the_end_of_the_daemon_ends_sessions_with_a_goodbye(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    server = StreamServer(StreamSettings(Endpoint.parse("127.0.0.1:0")))
    await server.start()

    def play(client: SpdyClient) -> None:
        Forwarded(client, stage.pod.port).send(b"x")
        pod = stage.pod.accept()
        assert read(pod, 1) == b"x"
        ending = asyncio.run_coroutine_threadsafe(server.close(), loop)
        while client.read():
            pass
        with pytest.raises(ConnectionResetError):
            pod.recv(1)
        client.close()
        ending.result(PATIENCE)
        pod.close()

    await stage.play(play, server.url(PortForward("a pod", (), dial_loopback, never)))


async def test_the_end_of_the_pod_is_the_end_of_its_sessions(stage: Stage) -> None:
    """A socket in its network would keep that alive."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    async def gone() -> None:
        await stopped.wait()

    def play(client: SpdyClient) -> None:
        Forwarded(client, stage.pod.port).send(b"x")
        pod = stage.pod.accept()
        assert read(pod, 1) == b"x"
        loop.call_soon_threadsafe(stopped.set)
        with pytest.raises(ConnectionResetError):
            pod.recv(1)
        while client.read():
            pass

    await stage.play(play, stage.url(gone=gone))


async def test_what_breaks_the_protocol_ends_the_session_and_is_told(stage: Stage) -> None:
    def play(client: SpdyClient) -> None:
        client.socket.sendall(b"\x80\x02noise" * 3)
        said = client.socket.recv(100)
        assert said == bytes.fromhex("8003 0007 00 000008 00000000 00000001")
        assert client.socket.recv(1) == b""

    await stage.play(play)


# Which ports


async def test_only_the_ports_of_the_request_are_forwarded(stage: Stage) -> None:
    def play(client: SpdyClient) -> None:
        assert "is not forwarded here: only 1" in Forwarded(client, stage.pod.port).refusal

    await stage.play(play, stage.url(1))


async def test_channels_without_ports_are_refused_and_what_is_served_is_said(stage: Stage) -> None:
    def play() -> None:
        with pytest.raises(NotUpgraded, match="we portforward") as caught:
            SpdyClient(stage.url(), "v4.channel.k8s.io")
        assert caught.value.status == 403

    await asyncio.to_thread(play)


async def test_a_stream_without_reply_would_lose_data_so_replies_come_first(stage: Stage) -> None:
    """spdystream throws away what comes on a stream before its reply."""

    def play(client: SpdyClient) -> None:
        connection = spdy.Connection(client=True)
        for kind in ("error", "data"):
            connection.open({"streamType": kind, "port": str(stage.pod.port), "requestID": "1"})
        client.socket.sendall(connection.take())
        pod = stage.pod.accept()
        pod.sendall(b"first")
        seen: list[spdy_events.Event] = []
        while not any(isinstance(event, spdy_events.DataReceived) for event in seen):
            seen += connection.receive(client.socket.recv(CHUNK))
        assert [type(event) for event in seen[:2]] == [spdy_events.StreamReplied] * 2
        pod.close()

    await stage.play(play)
