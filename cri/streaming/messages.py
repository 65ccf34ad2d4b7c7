"""WebSocket messages (RFC 6455), as a server reads and writes them. Sans-IO.

wsproto reads frames and answers control frames. What we send is whole messages of one frame, which
a server does not mask: their headers are made here, and the payload follows as it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from cri.streaming.remotecommand import WireError

_ONE_FRAME = {"binary": 0x82, "text": 0x81}


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of a message; long ones come in pieces."""

    data: bytes
    first: bool
    last: bool


class Messages:
    """One end of a WebSocket after its handshake."""

    def __init__(self) -> None:
        self._connection = Connection(ConnectionType.SERVER)
        self._inside = False  # a message
        self._out = bytearray()
        self.left = False  # the client has said goodbye

    def receive(self, data: bytes) -> list[Piece]:
        """The messages that these bytes bring. Raises WireError."""
        pieces: list[Piece] = []
        if self.left or not data:
            return pieces
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, CloseConnection):
                    self._end(event)
                    break
                if isinstance(event, Ping):
                    self._out += self._connection.send(event.response())
                elif isinstance(event, BytesMessage | TextMessage):
                    pieces.append(self._piece(event))
        except LocalProtocolError as error:
            raise WireError(f"WebSocket: {error}") from error
        return pieces

    def take(self) -> bytes:
        """What is to be sent besides messages, once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def close(self) -> None:
        """Say goodbye, or answer it."""
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._out += self._connection.send(CloseConnection(CloseReason.NORMAL_CLOSURE))

    def _piece(self, event: BytesMessage | TextMessage) -> Piece:
        data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
        piece = Piece(data, first=not self._inside, last=event.message_finished)
        self._inside = not event.message_finished
        return piece

    def _end(self, event: CloseConnection) -> None:
        """The client's goodbye, or frames that are none."""
        if self._connection.state is ConnectionState.OPEN:
            raise WireError(f"WebSocket: {event.reason or event.code}")
        self.left = True


def message_header(length: int, *, kind: str = "binary") -> bytes:
    """What goes before a message of `length` bytes; kind: binary or text."""
    if length < 126:
        return bytes((_ONE_FRAME[kind], length))
    if length < 1 << 16:
        return struct.pack("!BBH", _ONE_FRAME[kind], 126, length)
    return struct.pack("!BBQ", _ONE_FRAME[kind], 127, length)
