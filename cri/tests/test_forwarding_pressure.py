"""Port forwarding with somebody who is slow: the other waits, memory is bounded."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest

from cri.streaming.forwarding import ForwardStream
from cri.streaming.podconnection import UNSENT
from cri.tests.forward_stage import CHUNK, PATIENCE, Stage, descriptors, read, reset, staged
from cri.tests.parts import eventually
from e2e.forward_client import Forwarded
from e2e.spdy_client import SpdyClient


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


def fill(stage: Stage, client: SpdyClient, connection: Forwarded) -> int:
    """Sends until the server reads no more and nothing is taken; how much was taken."""
    (peer,) = stage.server._peers
    piece = client.connection.data_header(connection.data, CHUNK) + bytes(CHUNK)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
    client.socket.settimeout(0.1)
    sent = 0
    while sent < 64 << 20:
        try:
            sent += client.socket.send(piece[sent % len(piece) :])
        except TimeoutError:
            if peer._holders:
                break
    client.socket.settimeout(PATIENCE)
    return sent


async def test_a_pod_that_takes_nothing_makes_the_client_wait(stage: Stage) -> None:
    def play(client: SpdyClient) -> None:
        connection = Forwarded(client, stage.pod.port)
        pod = stage.pod.accept()
        assert fill(stage, client, connection) < 64 << 20
        (peer,) = stage.server._peers
        assert isinstance(peer.talk, ForwardStream)
        (made,) = peer.talk._connections.values()
        assert made._transport is not None
        kept = made._transport.get_write_buffer_size()
        assert UNSENT[0] < kept < UNSENT[0] + 2 * CHUNK
        reset(pod)

    await stage.play(play)


async def test_a_client_that_takes_nothing_makes_the_pod_wait_and_loses_nothing(
    stage: Stage,
) -> None:
    def play(client: SpdyClient) -> None:
        connection = Forwarded(client, stage.pod.port)
        pod = stage.pod.accept()
        sent, data = 0, os.urandom(CHUNK)
        pod.settimeout(1)
        try:
            while sent < 64 << 20:
                sent += pod.send(data[sent % CHUNK :])
        except TimeoutError:
            pass
        assert sent < 64 << 20
        pod.close()
        assert (
            sha256(connection.answer()).digest()
            == sha256((data * (sent // CHUNK + 1))[:sent]).digest()
        )

    await stage.play(play)


async def test_a_client_that_goes_while_the_pod_takes_nothing_is_noticed(stage: Stage) -> None:
    before = descriptors()

    def play(client: SpdyClient) -> None:
        connection = Forwarded(client, stage.pod.port)
        pod = stage.pod.accept()
        fill(stage, client, connection)
        client.close()
        with pytest.raises(ConnectionResetError):
            read(pod)
        pod.close()

    await stage.play(play)
    await eventually(lambda: stage.server.open_streams == 0)
    await eventually(lambda: descriptors() == before)
