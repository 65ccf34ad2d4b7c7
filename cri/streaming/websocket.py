"""Remote command over WebSocket (RFC 6455): a channel's number, then its bytes. Sans-IO.

    binary protocols    byte of the number, bytes
    base64 protocols    digit of the number, base64 of the bytes, in text messages
    version 5           255 and a channel's number: the client writes no more to that channel

A client that sends text in a binary protocol (Kubernetes' own for Python does) means its UTF-8.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from cri.streaming.messages import Messages, message_header
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


@dataclass(slots=True)
class _Message:
    """The one that is being received. number: its channel, once known; rest: base64, cut."""

    number: int = -1
    rest: bytes = b""


class WebSocketWire:
    """The channels of one WebSocket, after its handshake. A `Wire`."""

    def __init__(self, protocol: str, wanted: Wanted) -> None:
        """protocol: one of PROTOCOLS, or "" if the client named none."""
        self._base64 = BASE64 in protocol
        self._version = version_of(protocol.replace(BASE64, ""))
        self._wanted = wanted
        self._messages = Messages()
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
        for piece in self._messages.receive(data):
            events += self._part(piece.data)
            if piece.last:
                self._finish_message()
        if self._messages.left:
            events.append(Left())
        return events

    def take(self) -> bytes:
        out = bytes(self._out) + self._messages.take()
        self._out.clear()
        return out

    def frame(self, channel: Channel, payload: memoryview) -> tuple[bytes, bytes | memoryview]:
        if self._base64:
            text = base64.b64encode(payload)
            return message_header(len(text) + 1, kind="text") + b"%d" % channel, text
        return message_header(len(payload) + 1) + bytes((channel,)), payload

    def end(self, channel: Channel) -> None:
        """Only clients can end a channel; ours end with the connection."""

    def close(self) -> None:
        self._messages.close()

    def _whole(self, channel: Channel) -> bytes:
        header, payload = self.frame(channel, memoryview(b""))
        return header + payload

    def _part(self, data: bytes) -> list[Event]:
        """The next piece of a message."""
        message = self._message
        if not data:
            return []
        if message.number < 0:
            # in a byte, as Kubernetes does it: so "/" is 255
            message.number = (data[0] - ord("0")) % 256 if self._base64 else data[0]
            data = data[1:]
        return self._meant(message.number, self._decoded(data)) if data else []

    def _decoded(self, data: bytes) -> bytes:
        if not self._base64:
            return data
        text = self._message.rest + data
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
