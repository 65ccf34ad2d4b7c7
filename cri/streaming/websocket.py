"""Remote command over WebSocket (RFC 6455): a channel's number, then its bytes. Sans-IO.

    binary protocols    byte of the number, bytes
    base64 protocols    digit of the number, base64 of the bytes, in text messages
    version 5           255 and a channel's number: the client writes no more to that channel

wsproto reads frames, whole or in pieces, and answers control frames. What we send are messages of
one frame, which a server does not mask: their headers are made here, and no payload is copied.
A client that sends text in a binary protocol (Kubernetes' own for Python does) means its UTF-8.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from cri.streaming.remotecommand import (
    SUFFIX,
    Channel,
    Event,
    Input,
    InputEnded,
    Left,
    Opened,
    Sizes,
    Wanted,
    WireError,
    version_of,
)

BASE64 = "base64."
PROTOCOLS = (
    *(f"v{version}.{middle}{SUFFIX}" for version in (5, 4) for middle in ("", BASE64)),
    *(f"{middle}{SUFFIX}" for middle in ("", BASE64)),
    *(f"v{version}.{SUFFIX}" for version in (3, 2, 1)),
)
_END = 255
_BINARY = 0x82  # one frame, and the last
_TEXT = 0x81


@dataclass(slots=True)
class _Message:
    """The one that is being received. number: its channel, once known; rest: base64, cut."""

    number: int = -1
    rest: str = ""


class WebSocketWire:
    """The channels of one WebSocket, after its handshake. A `Wire`."""

    def __init__(self, protocol: str, wanted: Wanted) -> None:
        """protocol: one of PROTOCOLS, or "" if the client named none."""
        self._base64 = BASE64 in protocol
        self._version = version_of(protocol.replace(BASE64, ""))
        self._wanted = wanted
        self._connection = Connection(ConnectionType.SERVER)
        self._message = _Message()
        self._sizes = Sizes()
        self._opened = False
        self._ended = False
        # a client waits for the first message, to know that the command is about to begin
        hello = (self._whole(channel) for channel in wanted.outputs or (Channel.ERROR,))
        self._out = bytearray(b"".join(hello))

    @property
    def version(self) -> int:
        return self._version

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = [] if self._opened else [Opened()]
        self._opened = True
        if not data:
            return events
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, CloseConnection):
                    events.append(self._left(event))
                    break
                if isinstance(event, Ping):
                    self._out += self._connection.send(event.response())
                elif isinstance(event, BytesMessage | TextMessage):
                    events += self._part(event.data)
                    if event.message_finished:
                        self._finish_message()
        except LocalProtocolError as error:
            raise WireError(f"WebSocket: {error}") from None
        return events

    def take(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out

    def frame(self, channel: Channel, payload: memoryview) -> tuple[bytes, bytes | memoryview]:
        if self._base64:
            text = base64.b64encode(payload)
            return _header(_TEXT, len(text) + 1) + b"%d" % channel, text
        return _header(_BINARY, len(payload) + 1) + bytes((channel,)), payload

    def end(self, channel: Channel) -> None:
        """Only clients can end a channel; ours end with the connection."""

    def close(self) -> None:
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            self._out += self._connection.send(CloseConnection(CloseReason.NORMAL_CLOSURE))

    def _whole(self, channel: Channel) -> bytes:
        header, payload = self.frame(channel, memoryview(b""))
        return header + payload

    def _left(self, event: CloseConnection) -> Left:
        """The client's goodbye, or frames that are none."""
        if self._connection.state is ConnectionState.OPEN:
            raise WireError(f"WebSocket: {event.reason or event.code}")
        return Left()

    def _part(self, data: bytes | bytearray | str) -> list[Event]:
        """The next piece of a message."""
        message = self._message
        if not data:
            return []
        if message.number < 0:
            first = data[0]
            number = ord(first) if isinstance(first, str) else first
            # in a byte, as Kubernetes does it: so "/" is 255
            message.number = (number - ord("0")) % 256 if self._base64 else number
            data = data[1:]
        return self._meant(message.number, self._decoded(data)) if data else []

    def _decoded(self, data: bytes | bytearray | str) -> bytes:
        if not self._base64:
            return data.encode() if isinstance(data, str) else bytes(data)
        text = data if isinstance(data, str) else data.decode("ascii", "replace")
        text = self._message.rest + text
        cut = len(text) - len(text) % 4
        self._message.rest = text[cut:]
        try:
            return base64.b64decode(text[:cut], validate=True)
        except (binascii.Error, ValueError):
            raise WireError(f"WebSocket: expected base64, got {text[:20]!r}…") from None

    def _meant(self, number: int, data: bytes) -> list[Event]:
        """What bytes for a channel say. Channels that are ours or nobody's are passed over."""
        if number == Channel.STDIN and self._wanted.stdin and not self._ended:
            return [Input(data)] if data else []
        if number == Channel.RESIZE and self._wanted.terminal:
            return list(self._sizes.feed(data))
        ends = number == _END and self._version >= 5 and data[:1] == bytes((Channel.STDIN,))
        if ends and self._wanted.stdin and not self._ended:
            self._ended = True
            return [InputEnded()]
        return []

    def _finish_message(self) -> None:
        if self._message.rest:
            raise WireError("WebSocket: a message's base64 is cut short")
        self._message = _Message()


def _header(kind: int, length: int) -> bytes:
    """Of a frame from a server: RFC 6455, section 5.2."""
    if length < 126:
        return bytes((kind, length))
    if length < 1 << 16:
        return struct.pack("!BBH", kind, 126, length)
    return struct.pack("!BBQ", kind, 127, length)
