"""Pumps between descriptors and connections: nothing is lost, nothing is kept without bound."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from functools import partial

import pytest

from cri.streaming.pump import CHUNK, Bytes, Sink, Source
from cri.tests.parts import eventually

SMALLEST_PIPE = 4096


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Read end and write end, both non-blocking."""
    ends = os.pipe2(os.O_NONBLOCK)
    try:
        yield ends
    finally:
        for fd in ends:
            with contextlib.suppress(OSError):
                os.close(fd)


class Client:
    """Where a source's frames go. takes: bytes before it says that it is full."""

    def __init__(self, fd: int, takes: int = 1 << 30) -> None:
        self.got = bytearray()
        self.takes = takes
        self.ended = asyncio.Event()
        self.source = Source(fd, self.frame, self.write, lambda _: self.ended.set())

    def frame(self, payload: memoryview) -> tuple[bytes, Bytes]:
        return b"<%d>" % len(payload), payload

    def write(self, data: Bytes) -> None:
        self.got += data
        if len(self.got) >= self.takes:
            self.source.pause()


async def test_a_piece_and_its_header_arrive_in_one_write() -> None:
    with pipe() as (read_fd, write_fd):
        client = Client(read_fd)
        client.source.start()
        os.write(write_fd, b"hello")
        await eventually(lambda: bool(client.got))
        os.write(write_fd, b"you")
        os.close(write_fd)
        await asyncio.wait_for(client.ended.wait(), 20)
        assert client.got == b"<5>hello<3>you"
        assert client.source.over


async def test_nothing_is_read_while_paused() -> None:
    with pipe() as (read_fd, write_fd):
        client = Client(read_fd, takes=1)
        client.source.start()
        os.write(write_fd, b"one")
        await eventually(lambda: bool(client.got))
        os.write(write_fd, b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ended.wait(), 0.1)
        assert client.got == b"<3>one"
        client.source.resume()
        await eventually(lambda: client.got == b"<3>one<3>two")
        client.source.close()


async def test_what_was_in_the_pipe_is_handed_on_before_it_settles_and_nothing_waited_for() -> None:
    with pipe() as (read_fd, write_fd):
        client = Client(read_fd, takes=1)
        client.source.pause()
        client.source.start()
        os.write(write_fd, b"x" * 60_000)
        settling = asyncio.create_task(client.source.settle(0.01))
        await asyncio.wait([settling], timeout=0.1)
        assert not settling.done(), "the client has not taken it yet"
        client.source.resume()
        await asyncio.wait_for(settling, 20)
        assert len(client.got) == 60_007
        assert not client.source.over, "somebody holds the pipe still"
        client.source.close()


async def test_a_terminal_that_is_closed_and_opened_again_has_not_ended() -> None:
    master, slave = os.openpty()
    try:
        os.set_blocking(master, False)
        name = os.ttyname(slave)
        client = Client(master)
        client.source.start()
        for word in (b"one", b"two", b"three"):
            os.write(slave, word)
            os.close(slave)
            await eventually(partial(client.got.endswith, word))
            await asyncio.sleep(0.02)
            slave = os.open(name, os.O_RDWR | os.O_NOCTTY)
        assert not client.ended.is_set()
        os.write(slave, b"last")
        os.close(slave)
        slave = -1
        await asyncio.wait_for(client.source.settle(10), 1)  # at once: nobody has it open
        assert client.ended.is_set()
        assert client.got == b"<3>one<3>two<5>three<4>last"
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)


async def test_a_descriptor_that_is_none_has_ended_at_once() -> None:
    client = Client(-1)
    client.source.start()
    assert client.ended.is_set()
    await client.source.settle(0)


async def test_input_of_any_shape_arrives_in_order_through_the_smallest_pipe() -> None:
    pieces = [os.urandom(size) for size in (1, 0, 5000, 3, 4096, 100_000, 1, 1, 7)] * 20
    with pipe() as (read_fd, write_fd):
        fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
        drained = asyncio.Event()
        sink = Sink(drained.set)
        for piece in pieces[:90]:
            sink.write(piece)  # before there is a descriptor
        sink.open(write_fd)
        assert not sink.write(*pieces[90:])
        ended = asyncio.Event()
        sink.end(ended.set)
        client = Client(read_fd)
        client.source._frame = lambda payload: (b"", bytes(payload))
        client.source.start()
        await asyncio.wait_for(drained.wait(), 20)
        await asyncio.wait_for(ended.wait(), 20)
        wanted = b"".join(pieces)
        await eventually(lambda: len(client.got) == len(wanted))
        assert client.got == wanted
        client.source.close()


async def test_input_for_nobody_is_thrown_away_and_its_end_is_told() -> None:
    with pipe() as (read_fd, write_fd):
        os.close(read_fd)
        sink = Sink(lambda: None)
        sink.write(b"x")
        sink.open(write_fd)
        assert sink.write(b"x" * CHUNK), "it does not stop its client"
        ended = []
        sink.end(lambda: ended.append(True))
        sink.end(lambda: ended.append(True))
        assert ended == [True]


async def test_the_end_of_input_waits_for_a_descriptor() -> None:
    sink = Sink(lambda: None)
    ended = []
    sink.end(lambda: ended.append(True))
    assert ended == []
    with pipe() as (_, write_fd):
        sink.open(write_fd)
    assert ended == [True]
