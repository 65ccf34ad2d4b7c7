"""Port forwarding over WebSocket, with Kubernetes' own client for Python and with a tunnel."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator

import pytest
import websocket

from cri.tests.forward_stage import PATIENCE, Pod, Stage, read, reset, staged
from cri.tests.parts import eventually
from e2e.forward_client import Forwarded, meanwhile
from e2e.forward_websocket import TunnelClient, channels


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


async def test_kubernetes_client_for_python_reaches_two_ports(stage: Stage) -> None:
    second = Pod()

    def play() -> None:
        ports = stage.pod.port, second.port
        with channels(stage.url(*ports), *ports) as client:
            for pod in (stage.pod, second):
                mine = client.socket(pod.port)
                mine.sendall(b"question")
                theirs = pod.accept()
                assert read(theirs, 8) == b"question"
                theirs.sendall(b"answer")
                theirs.shutdown(socket.SHUT_WR)
                assert read(mine, 6) == b"answer"
                assert client.error(pod.port) is None
            assert read(mine) == b"", "all ports ended, so the session did"

    await asyncio.to_thread(play)
    second.close()


async def test_kubernetes_client_for_python_is_told_of_a_refused_port(stage: Stage) -> None:
    nobody = Pod()
    nobody.close()

    def play() -> None:
        with channels(stage.url(nobody.port), nobody.port) as client:
            assert read(client.socket(nobody.port)) == b""
            assert "Connection refused" in client.error(nobody.port)

    await asyncio.to_thread(play)


async def test_what_was_sent_before_a_goodbye_arrives(stage: Stage) -> None:
    """WebSocket channels can't be ended: who has said all closes the session."""
    sent = os.urandom(4 << 20)

    def play() -> None:
        url = stage.url(stage.pod.port).replace("http", "ws")
        client = websocket.create_connection(url, subprotocols=["v4.channel.k8s.io"])
        pod = stage.pod.accept()
        got: list[bytes] = []
        reading = meanwhile(lambda: got.append(read(pod)))
        for at in range(0, len(sent), 1 << 20):
            client.send_binary(b"\0" + sent[at : at + (1 << 20)])
        client.close()
        reading.join(PATIENCE)
        assert got == [sent]

    await asyncio.to_thread(play)


async def test_a_websocket_that_breaks_is_a_reset_for_the_pod(stage: Stage) -> None:
    def play() -> None:
        url = stage.url(stage.pod.port).replace("http", "ws")
        client = websocket.create_connection(url, subprotocols=["v4.channel.k8s.io"])
        client.send_binary(b"\0x")
        pod = stage.pod.accept()
        assert read(pod, 1) == b"x"
        assert client.sock is not None
        reset(client.sock)
        with pytest.raises(ConnectionResetError):
            pod.recv(1)

    await asyncio.to_thread(play)
    await eventually(lambda: stage.server.open_streams == 0)


async def test_spdy_in_a_tunnel_is_like_spdy(stage: Stage) -> None:
    nobody = Pod()
    nobody.close()
    there, back = os.urandom(8 << 20), os.urandom(8 << 20)

    def play() -> None:
        with TunnelClient(stage.url()) as client:
            connection = Forwarded(client, stage.pod.port)
            refused = Forwarded(client, nobody.port)
            assert "Connection refused" in refused.refusal
            pod = stage.pod.accept()

            def send() -> None:
                connection.send(there)
                connection.end()

            def serve() -> None:
                got.append(read(pod))
                pod.sendall(back)
                pod.close()

            got: list[bytes] = []
            threads = [meanwhile(send), meanwhile(serve)]
            answer = connection.answer()
            for thread in threads:
                thread.join(PATIENCE)
            assert digest(answer) == digest(back)
            assert digest(got[0]) == digest(there)

    await asyncio.to_thread(play)


async def test_a_tunnel_is_held_to_the_ports_of_its_request(stage: Stage) -> None:
    def play() -> None:
        with TunnelClient(stage.url(1)) as client:
            assert "only 1" in Forwarded(client, stage.pod.port).refusal

    await asyncio.to_thread(play)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
