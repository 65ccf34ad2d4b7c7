"""One connection among others: how much of it is heard at a time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable

from cri.streaming.peer import LONG, PIECES, Deaf, Hangups, Peer
from cri.tests.parts import eventually


class Heard(Deaf):
    """Takes `pace` seconds a byte, and notes what it hears and how often the loop turned."""

    def __init__(self, pace: float) -> None:
        self.pace = pace
        self.data = b""
        self.pieces: list[tuple[int, int]] = []  # bytes, turns of the loop until then
        self.turns = 0
        self.left = ""
        self.act: Callable[[], None] = lambda: None

    def received(self, data: bytes) -> None:
        self.data += data
        self.pieces.append((len(data), self.turns))
        time.sleep(len(data) * self.pace)
        self.act()

    def lost(self, reason: str) -> None:
        self.left = reason


@contextlib.asynccontextmanager
async def connected(heard: Heard) -> AsyncIterator[tuple[Peer, socket.socket]]:
    """A peer that talks to `heard`, and its client."""
    loop = asyncio.get_running_loop()
    hangups = Hangups()
    theirs, ours = socket.create_server(("127.0.0.1", 0)), socket.socket()
    ours.connect(theirs.getsockname())
    accepted, _ = theirs.accept()
    theirs.close()
    accepted.setblocking(False)
    peer = Peer(hangups, 60)
    peer.talk = heard

    def turn() -> None:
        heard.turns += 1
        if not peer.gone:
            loop.call_soon(turn)

    loop.call_soon(turn)
    await loop.connect_accepted_socket(lambda: peer, accepted)
    ours.setblocking(False)
    try:
        yield peer, ours
    finally:
        ours.close()
        peer.abort("the test ends")
        await asyncio.sleep(0)
        hangups.close()


async def test_who_takes_long_to_understand_is_heard_in_pieces_and_others_in_between() -> None:
    heard = Heard(pace=4 * LONG / PIECES[1] * 16)
    sent = bytes(range(256)) * 512
    async with connected(heard) as (_, client):
        await asyncio.get_running_loop().sock_sendall(client, sent)
        await eventually(lambda: len(heard.data) >= len(sent))
    assert heard.data == sent
    turns = [turn for _, turn in heard.pieces]
    assert sorted(set(turns)) == turns, "the loop turns between two pieces"
    assert min(size for size, _ in heard.pieces) < 8 * 1024


async def test_what_is_understood_at_once_is_soon_heard_as_it_comes() -> None:
    heard = Heard(pace=0)
    sent = bytes(8 << 20)
    async with connected(heard) as (_, client):
        await asyncio.get_running_loop().sock_sendall(client, sent)
        await eventually(lambda: len(heard.data) == len(sent))
    assert max(size for size, _ in heard.pieces) > 64 * 1024


async def test_what_a_client_said_before_it_left_is_heard_though_somebody_holds_it() -> None:
    heard = Heard(pace=0)
    sent = bytes(100_000)
    async with connected(heard) as (peer, client):
        heard.act = lambda: peer.hold(heard)
        client.send(sent)
        client.close()
        await eventually(lambda: heard.left != "")
    assert heard.data == sent
    assert heard.left == "the client closed the connection"
