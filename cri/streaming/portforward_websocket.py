"""Port forwarding over WebSocket, in both ways that Kubernetes has. Sans-IO.

Channels (v4.channel.k8s.io, v4.base64.channel.k8s.io): the ports are known from the beginning, one
connection each. Port number i has channel 2i for data and 2i+1 for its error; a message is the
channel's number and bytes. The first message of each is its port in two bytes, the lower one first.
There is no way to end a channel: the session ends when all connections have.

Tunnel (SPDY/3.1+portforward.k8s.io, KEP-4006): binary messages carry a SPDY connection, cut as they
like.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Sequence

from cri.streaming.messages import Messages, Piece, message_header
from cri.streaming.portforward import (
    PROTOCOL,
    Asked,
    Begun,
    Event,
    Left,
    Sent,
    SpdyForwarding,
)
from cri.streaming.remotecommand import WireError

TUNNEL = f"SPDY/3.1+{PROTOCOL}"
BINARY = "v4.channel.k8s.io"
BASE64 = "v4.base64.channel.k8s.io"
PROTOCOLS = (TUNNEL, BINARY, BASE64)
PORTS_LIMIT = 40  # their channels, counted on from "0", are still ASCII


class Channels:
    """One connection a port, two channels each. A `ForwardWire`."""

    half_close = False

    def __init__(self, protocol: str, ports: Sequence[int]) -> None:
        """protocol: BINARY, BASE64, or "" (as BINARY); ports: at least one, PORTS_LIMIT at most."""
        self._base64 = protocol == BASE64
        self._ports = ports
        self._messages = Messages()
        self._channel = -1  # of the message that is being received
        self._rest = b""  # base64 of it, cut
        self._open = set(range(len(ports)))
        self._begun = False
        self._out = bytearray()
        for number, port in enumerate(ports):
            for channel in (2 * number, 2 * number + 1):
                self._out += self._message(channel, port.to_bytes(2, "little"))

    @property
    def over(self) -> bool:
        return not self._open

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if not self._begun:
            self._begun = True
            for number, port in enumerate(self._ports):
                events += (Begun(number), Asked(number, port))
        for piece in self._messages.receive(data):
            self._meant(piece, events)
        if self._messages.left:
            events.append(Left())
        return events

    def take(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out + self._messages.take()

    def frame(self, connection: int, payload: bytes) -> tuple[bytes, bytes] | None:
        if connection not in self._open:
            return None
        return self._framed(2 * connection, payload)

    def end(self, connection: int) -> None:
        self._open.discard(connection)

    def fail(self, connection: int, text: str) -> None:
        if connection in self._open:
            self._open.discard(connection)
            self._out += self._message(2 * connection + 1, text.encode(errors="replace"))

    def break_off(self, connection: int) -> None:
        self.fail(connection, f"port {self._ports[connection]}: the pod broke the connection off")

    def give_up(self, _connection: int) -> bool:
        return False

    def close(self) -> None:
        self._messages.close()

    def _framed(self, channel: int, payload: bytes) -> tuple[bytes, bytes]:
        if self._base64:
            text = base64.b64encode(payload)
            return message_header(len(text) + 1, kind="text") + _digit(channel), text
        return message_header(len(payload) + 1) + bytes((channel,)), payload

    def _message(self, channel: int, payload: bytes) -> bytes:
        return b"".join(self._framed(channel, payload))

    def _meant(self, piece: Piece, events: list[Event]) -> None:
        """Only data channels are read; what is for another is passed over."""
        data = piece.data
        if self._channel < 0 and data:
            self._channel = (data[0] - ord("0")) % 256 if self._base64 else data[0]
            data = data[1:]
        if self._base64:
            data = self._decoded(data, last=piece.last)
        number, error = divmod(self._channel, 2)
        if data and not error and number in self._open:
            events.append(Sent(number, data))
        if piece.last:
            self._channel = -1

    def _decoded(self, text: bytes, *, last: bool) -> bytes:
        text = self._rest + text
        cut = len(text) - len(text) % 4
        self._rest = text[cut:]
        if last and self._rest:
            raise WireError("WebSocket: a message's base64 is cut short")
        try:
            return base64.b64decode(text[:cut], validate=True)
        except binascii.Error:
            raise WireError(f"WebSocket: expected base64, got {text[:20]!r}") from None


class Tunnel:
    """A SPDY connection in binary messages. A `ForwardWire`."""

    half_close = True
    over = False

    def __init__(self, allowed: Collection[int] = ()) -> None:
        """allowed: ports that may be asked for; none: all."""
        self._messages = Messages()
        self._inner = SpdyForwarding(allowed)
        self.end = self._inner.end
        self.fail = self._inner.fail
        self.break_off = self._inner.break_off
        self.give_up = self._inner.give_up

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        for piece in self._messages.receive(data):
            events += self._inner.receive(piece.data)
        if self._messages.left:
            events.append(Left())
        return events

    def take(self) -> bytes:
        frames = self._inner.take()
        if frames:
            frames = message_header(len(frames)) + frames
        return frames + self._messages.take()

    def frame(self, connection: int, payload: bytes) -> tuple[bytes, bytes] | None:
        framed = self._inner.frame(connection, payload)
        if framed is None:
            return None
        header, payload = framed
        return message_header(len(header) + len(payload)) + header, payload

    def close(self) -> None:
        self._inner.close()
        self._messages.close()


def _digit(channel: int) -> bytes:
    """Kubernetes counts on from "0" in ASCII."""
    return bytes((channel + ord("0"),))
