"""Exec and attach: a session on one side, a client's channels on the other.

    client ──bytes──▶ Peer ──▶ Wire ──Input──▶ Sink ────▶ stdin
                       │         ├──Resized──▶ session.resize
                       ◀─frames──┴◀────────── Source ◀── stdout, stderr

The command begins when the client has all its channels. When it has ended and its output is out,
its exit code goes to the error channel, and the connection is ended. A client that leaves ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from cri.errors import INTERNAL, message_of, status_of
from cri.streaming import spdy_wire, websocket
from cri.streaming.peer import Peer
from cri.streaming.pump import Sink, Source
from cri.streaming.purpose import Stream, uninterrupted
from cri.streaming.remotecommand import (
    Channel,
    Event,
    Input,
    InputEnded,
    Left,
    Opened,
    Resized,
    Wanted,
    Wire,
    WireError,
    exit_status,
    failure_status,
)
from cri.streaming.session import Session
from cri.streaming.upgrade import Offer, Transport, Upgrade

log = logging.getLogger(__name__)

DRAIN = 1.0  # seconds for the pipes to end after the command has
OFFER = Offer(spdy_wire.PROTOCOLS, websocket.PROTOCOLS)


@dataclass(frozen=True, slots=True)
class RemoteCommand:
    """An allowed exec or attach. A `Purpose`.

    open: begins it; what it raises is told to the client. creation_timeout: seconds that the client
    has to open its channels.
    """

    kind: str
    subject: str
    wanted: Wanted
    open: Callable[[], Awaitable[Session]]
    creation_timeout: float

    @property
    def offer(self) -> Offer:
        return OFFER

    def begin(self, peer: Peer, upgrade: Upgrade) -> Stream:
        spdy = upgrade.transport is Transport.SPDY
        make = spdy_wire.SpdyWire if spdy else websocket.WebSocketWire
        return CommandStream(self, peer, make(upgrade.protocol, self.wanted))


class CommandStream:
    """One exec or attach under way. A `Stream`."""

    def __init__(self, command: RemoteCommand, peer: Peer, wire: Wire) -> None:
        self._command = command
        self._peer = peer
        self._wire = wire
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hold = object()
        self._sink = Sink(partial(peer.release, self._hold))
        self._sources: list[Source] = []
        self._session: Session | None = None
        self._size: Resized | None = None
        self._task: asyncio.Task[object] | None = None
        self._left = ""

    # what the connection tells

    def received(self, data: bytes) -> None:
        try:
            events = self._wire.receive(data)
            for is_input, group in groupby(events, lambda event: isinstance(event, Input)):
                if is_input:
                    self._feed([event.data for event in group if isinstance(event, Input)])
                else:
                    for event in group:
                        self._act(event)
        except WireError as error:
            log.debug("%s %s: %s", self._command.kind, self._peer.name, error)
            self._wire.close()
            self._flush()
            self._peer.abort(str(error))
            return
        self._flush()

    def paused(self) -> None:
        for source in self._sources:
            source.pause()

    def resumed(self) -> None:
        for source in self._sources:
            source.resume()

    def lost(self, reason: str) -> None:
        self._left = reason
        if self._task is not None:
            self._task.cancel()

    # from the first channel to the exit status

    async def run(self) -> str:
        self._task = asyncio.current_task()
        if self._left:
            return self._left
        try:
            async with asyncio.timeout(self._command.creation_timeout):
                self.received(b"")
                await self._opened
        except TimeoutError:
            return f"the client has not opened its streams in {self._command.creation_timeout:g} s"
        except asyncio.CancelledError:
            return self._why_cancelled()
        try:
            status, outcome = await self._converse()
        except asyncio.CancelledError:
            status = failure_status(self._wire.version, "podwright is ending")
            outcome = self._why_cancelled()
        await self._conclude(status)
        return outcome

    def _why_cancelled(self) -> str:
        """Cancelled by ourselves, because the client left; or from outside."""
        return self._left or "the daemon ends"

    async def _converse(self) -> tuple[bytes, str]:
        """Run it to its end; answer what to tell the client, and the log."""
        version = self._wire.version
        try:
            code = await self._serve()
        except Exception as error:  # noqa: BLE001 - the guard of streams, as service.py's of RPCs
            text = self._told(error)
            return failure_status(version, text), text
        return exit_status(version, code), f"exit code {code}"

    def _told(self, error: Exception) -> str:
        mapped = status_of(error)
        text = message_of(error, mapped)
        if mapped is not INTERNAL:
            return text
        log.error("%s: failed", self._command.kind, exc_info=error)
        return f"internal error: {type(error).__name__}: {text}; podwright's log has more"

    async def _serve(self) -> int:
        """Until the session has ended and its output is out; the exit code."""
        session = await self._command.open()
        try:
            self._connect(session)
            code = await session.wait()
            await asyncio.gather(*(source.settle(DRAIN) for source in self._sources))
            return code
        finally:
            self._disconnect()
            await uninterrupted(session.close())

    def _connect(self, session: Session) -> None:
        self._session = session
        if self._size is not None:
            session.resize(self._size.width, self._size.height)
        self._sink.open(session.stdin_fd)
        for channel in self._command.wanted.outputs:
            fd = session.stdout_fd if channel is Channel.STDOUT else session.stderr_fd
            source = Source(
                fd,
                partial(self._wire.frame, channel),
                self._peer.write,
                partial(self._end_output, channel),
            )
            self._sources.append(source)
            if not self._peer.writable:
                source.pause()
            source.start()

    def _disconnect(self) -> None:
        self._session = None
        self._sink.close()
        self._peer.release(self._hold)
        while self._sources:
            self._sources.pop().close()

    async def _conclude(self, status: bytes) -> None:
        """The last words, and the end of the connection."""
        for channel in self._command.wanted.outputs:
            self._wire.end(channel)
        self._flush()
        if status:
            self._peer.write(b"".join(self._wire.frame(Channel.ERROR, memoryview(status))))
        self._wire.end(Channel.ERROR)
        self._wire.close()
        self._flush()
        await self._peer.finish()

    # what the client says

    def _feed(self, pieces: list[bytes | memoryview]) -> None:
        """Input, by one write however small the frames are in which it came."""
        if not self._sink.write(*pieces):
            self._peer.hold(self._hold)

    def _act(self, event: Event) -> None:
        match event:
            case InputEnded():
                self._sink.end(self._end_input)
            case Resized():
                self._size = event
                if self._session is not None:
                    self._session.resize(event.width, event.height)
            case Opened():
                if not self._opened.done():
                    self._opened.set_result(None)
            case Left():
                self._wire.close()
                self._flush()
                self._peer.abort("the client closed the connection")

    def _end_input(self) -> None:
        if self._session is not None:
            self._session.end_input()

    def _end_output(self, channel: Channel, _error: OSError | None) -> None:
        self._wire.end(channel)
        self._flush()

    def _flush(self) -> None:
        out = self._wire.take()
        if out:
            self._peer.write(out)
