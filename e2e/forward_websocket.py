"""Clients of port forwarding over WebSocket: Kubernetes' own for Python, and SPDY in a tunnel."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import websocket
from kubernetes.client import Configuration
from kubernetes.stream import ws_client

from cri.streaming.portforward_websocket import TUNNEL
from cri.streaming.spdy import Connection
from e2e.spdy_client import CHUNK, PATIENCE, SpdyClient

_untyped: Any = ws_client


@contextlib.contextmanager
def channels(url: str, *ports: int) -> Iterator[Any]:
    """A session with two channels a port; its `socket(port)` is a connection."""
    target = url.replace("http://", "ws://")
    made = _untyped.create_websocket(Configuration(), target, {})
    session = _untyped.PortForward(made, ports)
    try:
        yield session
    finally:
        session.close()
        made.shutdown()


class TunnelClient(SpdyClient):
    """A SPDY connection inside a WebSocket; its socket is one end of a pair, relayed by threads."""

    def __init__(self, url: str) -> None:
        target = url.replace("http://", "ws://")
        self._websocket: Any = websocket.create_connection(
            target, subprotocols=[TUNNEL], timeout=PATIENCE
        )
        assert self._websocket.subprotocol == TUNNEL.lower(), "as this client tells it"
        self._relay, self.socket = socket.socketpair()
        self.connection = Connection(client=True)
        self.streams = {}
        self.closed = False
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):
            self._relay.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._websocket.shutdown()
        self._relay.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            while data := self._relay.recv(CHUNK):
                self._websocket.send_binary(data)
            self._websocket.send_close()

    def _receive(self) -> None:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            for data in self._messages():
                self._relay.sendall(data)
        with contextlib.suppress(OSError):
            self._relay.shutdown(socket.SHUT_WR)

    def _messages(self) -> Iterator[bytes]:
        while True:
            kind, data = self._websocket.recv_data()
            if kind != websocket.ABNF.OPCODE_BINARY:
                return
            yield data
