"""The other side of port forwarding: what client-go and a browser would say, without sockets."""

from __future__ import annotations

from wsproto.connection import Connection as WebSocket
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Pong, TextMessage
from wsproto.events import Event as Message

from cri.streaming import spdy, spdy_events
from cri.streaming.portforward import Event, ForwardWire


class Client:
    """Someone who opens pairs of streams, as client-go does."""

    def __init__(self, wire: ForwardWire) -> None:
        self.spdy = spdy.Connection(client=True)
        self.wire = wire

    def stream(self, kind: str, port: object = 80, request: object = "") -> int:
        headers = {"streamType": kind, "port": str(port)}
        if request != "":
            headers["requestID"] = str(request)
        return self.spdy.open(headers)

    def say(self, more: bytes = b"") -> list[Event]:
        return self.wire.receive(self.spdy.take() + more)

    def hear(self, more: bytes = b"") -> list[spdy_events.Event]:
        events = self.spdy.receive(self.wire.take() + more)
        return [event for event in events if not isinstance(event, spdy_events.StreamReplied)]

    def data(self, stream: int, text: bytes) -> bytes:
        return self.spdy.data_header(stream, len(text)) + text


class Browser:
    """The other end of a WebSocket."""

    def __init__(self, wire: ForwardWire) -> None:
        self.wire = wire
        self.socket = WebSocket(ConnectionType.CLIENT)

    def say(self, *messages: Message) -> list[Event]:
        return self.wire.receive(b"".join(map(self.socket.send, messages)))

    def hear(self, more: bytes = b"") -> list[bytes | str]:
        """Messages; a goodbye is b"bye"."""
        self.socket.receive_data(self.wire.take() + more)
        said: list[bytes | str] = []
        for event in self.socket.events():
            if isinstance(event, BytesMessage):
                said.append(bytes(event.data))
            elif isinstance(event, TextMessage):
                said.append(event.data)
            elif isinstance(event, CloseConnection):
                said.append(b"bye")
            elif isinstance(event, Pong):
                said.append(b"pong")
        return said
