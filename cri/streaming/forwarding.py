"""Port forwarding at work: one client's session, and its TCP connections into the pod.

    client ◀── Peer ──▶ ForwardStream ── wire: whose is it? ──▶ PodConnection ◀── TCP ──▶ pod

Back-pressure, and so the memory that a session can take:

* A client that reads slowly: while something is unsent, no connection of the pod is read.
* A connection of the pod that takes nothing: above 64 KiB unsent (or not yet connected), the client
  is not read. That holds up the session's other connections as well: SPDY as Kubernetes speaks it
  has no windows, so the only other choice would be memory without end.

Everything happens in callbacks of the loop; only dialling is a task.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import ClassVar

from cri.errors import CriFault
from cri.streaming.peer import Peer
from cri.streaming.podconnection import PodConnection
from cri.streaming.portforward import (
    PROTOCOL,
    Aborted,
    Asked,
    Begun,
    Ended,
    Event,
    ForwardWire,
    Left,
    Sent,
    SpdyForwarding,
)
from cri.streaming.portforward_websocket import PROTOCOLS, TUNNEL, Channels, Tunnel
from cri.streaming.purpose import Stream
from cri.streaming.remotecommand import WireError
from cri.streaming.upgrade import Offer, Transport, Upgrade
from runtime.errors import RuntimeFault

PAIR_PATIENCE = 30.0  # seconds for the second stream of a pair
DIAL_PATIENCE = 30.0  # seconds
GOODBYE = 10.0  # seconds that a client has to take our last bytes
JOIN = 64 * 1024  # bytes: up to here a copy is cheaper than a second system call

Dial = Callable[[int], Awaitable[socket.socket]]
Gone = Callable[[], Coroutine[object, object, None]]


@dataclass(frozen=True, slots=True)
class PortForward:
    """An allowed port forwarding. A `Purpose`.

    ports: what was asked for: over SPDY and in a tunnel no other port is forwarded then, and the
    channels of a WebSocket are these; without any, clients name ports as they need them.
    dial: answers a connected, non-blocking socket for a port; an OSError, RuntimeFault or CriFault
    is told to the client. gone: returns when the pod has stopped: sockets keep its network alive.
    """

    subject: str
    ports: Sequence[int]
    dial: Dial
    gone: Gone
    creation_timeout: float = PAIR_PATIENCE
    kind: ClassVar[str] = "portforward"

    @property
    def offer(self) -> Offer:
        return Offer((PROTOCOL,), PROTOCOLS if self.ports else (TUNNEL,))

    def begin(self, peer: Peer, upgrade: Upgrade) -> Stream:
        return ForwardStream(self, peer, self._wire(upgrade))

    def _wire(self, upgrade: Upgrade) -> ForwardWire:
        if upgrade.transport is Transport.SPDY:
            return SpdyForwarding(self.ports)
        if upgrade.protocol == TUNNEL:
            return Tunnel(self.ports)
        return Channels(upgrade.protocol, self.ports)


class ForwardStream:
    """A client's session. A `Stream`."""

    def __init__(self, purpose: PortForward, peer: Peer, wire: ForwardWire) -> None:
        self._loop = asyncio.get_running_loop()
        self._purpose = purpose
        self._peer = peer
        self._wire = wire
        self._connections: dict[int, PodConnection] = {}
        self._dialling: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._asked = 0  # connections
        self._to_pod = self._to_client = 0  # bytes

    async def run(self) -> str:
        self.received(b"")
        watching = asyncio.create_task(self._watch())
        try:
            reason = await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            self._end(reason := "the daemon ends")
        watching.cancel()
        await asyncio.gather(watching, *self._dialling, return_exceptions=True)
        self._wire.close()
        if said := self._wire.take():
            self._peer.write(said)
        await asyncio.wait([asyncio.ensure_future(self._peer.finish())], timeout=GOODBYE)
        return f"{reason}; {self._asked} connections, {self._to_pod} B in, {self._to_client} B out"

    async def _watch(self) -> None:
        await self._purpose.gone()
        self._end("the pod has stopped")

    # what the client does

    def received(self, data: bytes) -> None:
        """Of a session that has ended nothing is heard any more."""
        if self._ended.done():
            return
        try:
            for event in self._wire.receive(data):
                self._act(event)
        except WireError as error:
            self._end(str(error))
            return
        self._flush()

    def paused(self) -> None:
        for connection in self._connections.values():
            connection.pause()

    def resumed(self) -> None:
        for connection in self._connections.values():
            connection.resume()

    def lost(self, reason: str) -> None:
        self._end(reason)

    def _act(self, event: Event) -> None:
        if self._ended.done():
            return
        if isinstance(event, Begun):
            self._begun(event.connection)
        elif isinstance(event, Left):
            for connection in list(self._connections.values()):
                connection.end()
            self._end("the client said goodbye")
        elif found := self._connections.get(event.connection):
            self._act_on(found, event)

    def _act_on(self, connection: PodConnection, event: Event) -> None:
        match event:
            case Sent(_, data):
                self._to_pod += len(data)
                connection.send(data)
            case Asked(_, port):
                self._connect(connection, port)
            case Ended():
                connection.end()
            case Aborted():
                connection.abort()

    def _begun(self, number: int) -> None:
        connection = self._connections[number] = PodConnection(number, self)
        connection.pending = self._loop.call_later(
            self._purpose.creation_timeout, self._give_up, connection
        )

    def _give_up(self, connection: PodConnection) -> None:
        if self._wire.give_up(connection.number):
            connection.abort()
            self._flush()

    def _connect(self, connection: PodConnection, port: int) -> None:
        if connection.pending is not None:
            connection.pending.cancel()
        self._asked += 1
        task = asyncio.create_task(self._dialled(connection, port))
        connection.pending = task
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _dialled(self, connection: PodConnection, port: int) -> None:
        try:
            async with asyncio.timeout(DIAL_PATIENCE):
                connected = await self._purpose.dial(port)
        except (OSError, RuntimeFault, CriFault) as error:
            text = f"can't connect to port {port} of the pod: {_reason(error)}"
            self._wire.fail(connection.number, text)
            self.gone(connection)
            self._flush()
            return
        try:
            await self._loop.create_connection(lambda: connection, sock=connected)
        finally:
            if not connection.made:
                connected.close()

    # what the pod does

    @property
    def client_full(self) -> bool:
        """Whether nothing may be read from the pod for now."""
        return not self._peer.writable

    @property
    def half_close(self) -> bool:
        """Whether the client can send on when the pod has ended."""
        return self._wire.half_close

    def answer(self, number: int, data: bytes) -> None:
        """Bytes for the client."""
        framed = self._wire.frame(number, data)
        if framed is None or self._ended.done():
            return
        header, payload = framed
        self._to_client += len(data)
        if len(payload) <= JOIN:
            self._peer.write(header + payload)
        else:
            self._peer.write(header)
            self._peer.write(payload)

    def answered(self, number: int) -> None:
        """The pod sends no more."""
        self._wire.end(number)
        self._flush()

    def broken(self, number: int) -> None:
        """The connection has ended before both sides did."""
        self._wire.break_off(number)
        self._flush()

    def gone(self, connection: PodConnection) -> None:
        """There is no connection, and will be none."""
        self._connections.pop(connection.number, None)
        self.release(connection)

    def hold(self, connection: PodConnection) -> None:
        """It can't take more: the client has to wait."""
        self._peer.hold(connection)

    def release(self, connection: PodConnection) -> None:
        """It can again."""
        self._peer.release(connection)

    # the end

    def _flush(self) -> None:
        """Send what the wire has to say, and end when it has nothing to do any more."""
        if self._ended.done():
            return
        if said := self._wire.take():
            self._peer.write(said)
        if self._wire.over:
            self._end("all connections have ended")

    def _end(self, reason: str) -> None:
        """Leave nothing behind. Idempotent."""
        if self._ended.done():
            return
        self._ended.set_result(reason)
        for connection in list(self._connections.values()):
            connection.leave()


def _reason(error: Exception) -> str:
    """Why there is no connection, in the kernel's words where it has some."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or "nothing answers"
