"""A client's TCP connection, as what is served on it sees it: an asyncio protocol.

What is written goes out at once (asyncio sets TCP_NODELAY). At most what did not fit in the socket
is kept: then `paused` is told, and `resumed` when all of it is out. Reading stops while anybody
holds it, and a client that leaves meanwhile is noticed all the same (see `Hangups`).
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Callable
from typing import Protocol

LINGER = 3.0  # seconds for a client to close what we have ended
MOST_ANSWERS = 64 * 1024  # bytes of answers (to pings, say) to one who doesn't read them
PIECES = (1024, 256 * 1024)  # bytes that are heard at once, at least and at most
FIRST_PIECE = 16 * 1024
LONG = 0.004  # seconds for a piece: the next one is half as large; a quarter of it: twice


class Talk(Protocol):
    """What is served on a connection."""

    def received(self, data: bytes) -> None:
        """The next bytes of the client."""

    def paused(self) -> None:
        """What was written last is not out yet: produce no more."""

    def resumed(self) -> None:
        """Everything is out."""

    def lost(self, reason: str) -> None:
        """The client is gone. Told once."""


class Hangups:
    """Tells of clients that have closed their end while nobody reads what they sent.

    asyncio watches only what is read or written. One epoll for all connections, watched itself;
    each is told once.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[], None]] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._look)

    def watch(self, fd: int, told: Callable[[], None]) -> None:
        self._told[fd] = told
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLET)

    def forget(self, fd: int) -> None:
        """Before the descriptor is closed. Idempotent."""
        if self._told.pop(fd, None):
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _look(self) -> None:
        for fd, _ in self._epoll.poll(0):
            told = self._told.get(fd)
            if told is not None:
                told()


class Peer(asyncio.Protocol):
    """One connection. `talk` may be replaced: HTTP first, then what it is switched to."""

    def __init__(self, hangups: Hangups, idle_timeout: float) -> None:
        self._hangups = hangups
        self._idle_timeout = idle_timeout
        self._loop = asyncio.get_running_loop()
        self._holders: set[object] = set()
        self._fd = -1
        self._hung_up = False
        self._writable = asyncio.Event()
        self._gone: asyncio.Future[str] = self._loop.create_future()
        self._answering = False
        self._answers = 0
        self._active = time.monotonic()
        self._unheard = b""
        self._piece = FIRST_PIECE
        self._idle_timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.talk: Talk
        self.name = ""  # of the client: address:port

    # what those who serve may do

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or keep; after the end: neither."""
        if self.gone or self._transport is None:
            return
        if self._answering and not self.writable:
            self._answers += len(data)
        self._transport.write(data)
        if self.writable:
            self._active = time.monotonic()

    @property
    def writable(self) -> bool:
        """Everything that was written is out."""
        return self._writable.is_set()

    @property
    def gone(self) -> bool:
        return self._gone.done()

    def hold(self, who: object) -> None:
        """Read no more until `who` (any hashable) releases. Idempotent."""
        self._holders.add(who)
        if self._hung_up and not self._unheard:
            self.abort("the client closed the connection")
        elif self._transport is not None and not self.gone:
            self._transport.pause_reading()

    def release(self, who: object) -> None:
        """Idempotent."""
        self._holders.discard(who)
        self._read_on()

    def again(self, data: bytes) -> None:
        """For a `talk` that gives way to another while it hears: what it has left over."""
        self._unheard = data + self._unheard

    def abort(self, reason: str) -> None:
        """End the connection now, whatever is still to be sent."""
        self._lose(reason)
        if self._transport is not None:
            self._transport.abort()

    async def finish(self) -> None:
        """End the connection when everything is out.

        The client closes first: what it may have sent and we have not read would turn our close
        into a reset, which may overtake our last words.
        """
        self.talk = Deaf()
        self._holders.clear()
        self._unheard = b""
        if self._transport is not None and not self.gone:
            self._transport.resume_reading()
            await self._until_out()
            if self._transport.can_write_eof() and not self.gone:
                self._transport.write_eof()
            await asyncio.wait([self._gone], timeout=LINGER)
        self.abort("done")

    async def _until_out(self) -> None:
        out = asyncio.create_task(self._writable.wait())
        either: list[asyncio.Future[str] | asyncio.Task[bool]] = [out, self._gone]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            out.cancel()

    # what asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.gone:  # turned away before it was there
            transport.abort()
            return
        self._writable.set()
        # asyncio's TLS counts from `high` on, its TCP beyond it
        secure = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=int(secure), low=0)
        connection = transport.get_extra_info("socket")
        _keep_alive(connection)
        host, port = transport.get_extra_info("peername")[:2]
        self.name = f"{host}:{port}"
        self._fd = connection.fileno()
        self._hangups.watch(self._fd, self._on_hangup)
        self._idle_timer = self._loop.call_later(self._idle_timeout, self._look_whether_idle)

    def data_received(self, data: bytes) -> None:
        waits = bool(self._unheard)
        self._unheard = self._unheard + data if waits else data
        if not waits:
            self._hear()

    def _hear(self) -> None:
        """One piece; then others have the loop. A client may say in 256 KiB what takes a fifth of
        a second to understand: frames of six bytes, say."""
        if self.gone or not self._unheard:
            return
        began = self._active = time.monotonic()
        piece, self._unheard = self._unheard[: self._piece], self._unheard[self._piece :]
        self._answering = True
        self.talk.received(piece)
        self._answering = False
        took = time.monotonic() - began
        if took > LONG:
            self._piece = max(self._piece // 2, PIECES[0])
        elif took < LONG / 4:
            self._piece = min(self._piece * 2, PIECES[1])
        if self._answers > MOST_ANSWERS:
            self.hold(self)
        if self._unheard:
            if self._transport is not None and not self.gone:
                self._transport.pause_reading()
            self._loop.call_soon(self._hear)
        elif self._holders and self._hung_up:
            self.abort("the client closed the connection")
        else:
            self._read_on()

    def _read_on(self) -> None:
        reads = not self._holders and not self._unheard
        if reads and self._transport is not None and not self.gone:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._writable.clear()
        self.talk.paused()

    def resume_writing(self) -> None:
        self._active = time.monotonic()
        self._answers = 0
        self._writable.set()
        self.release(self)
        self.talk.resumed()

    def eof_received(self) -> bool:
        self._lose("the client closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(f"the connection broke: {exc}" if exc else "the client closed the connection")

    def _on_hangup(self) -> None:
        self._hung_up = True
        if self._holders and not self._unheard:
            self.abort("the client closed the connection")

    def _look_whether_idle(self) -> None:
        left = self._active + self._idle_timeout - time.monotonic()
        if left <= 0:
            self.abort(f"nothing was sent for {self._idle_timeout:g} s")
        else:
            self._idle_timer = self._loop.call_later(left, self._look_whether_idle)

    def _lose(self, reason: str) -> None:
        if self.gone:
            return
        self._gone.set_result(reason)
        self._hangups.forget(self._fd)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        talk, self.talk = self.talk, Deaf()  # neither keeps the other: what streamed is freed now
        talk.lost(reason)


def _keep_alive(connection: socket.socket) -> None:
    """A host that has vanished without a word is noticed after two minutes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 60),
        (socket.TCP_KEEPINTVL, 15),
        (socket.TCP_KEEPCNT, 4),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Deaf:
    """Hears nothing: for a connection on which all is said."""

    def received(self, data: bytes) -> None:
        pass

    def paused(self) -> None:
        pass

    def resumed(self) -> None:
        pass

    def lost(self, reason: str) -> None:
        pass
