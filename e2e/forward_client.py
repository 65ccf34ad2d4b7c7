"""Clients of port forwarding: over SPDY as kubectl is one, and SPDY in a WebSocket's tunnel.

with SpdyClient(url, "portforward.k8s.io") as client:
    connection = Forwarded(client, 8080)
    connection.send(b"GET / HTTP/1.0\\r\\n\\r\\n")
    assert connection.answer().startswith(b"HTTP/1.0 200 OK")
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from cri.streaming.spdy_events import CANCEL
from e2e.spdy_client import SpdyClient

PROTOCOL = "portforward.k8s.io"
FRAME = 32 * 1024

_requests = itertools.count()


class Forwarded:
    """A connection to a port, as one of many of a client."""

    def __init__(self, client: SpdyClient, port: int) -> None:
        self.client = client
        headers = {"port": str(port), "requestID": str(next(_requests))}
        self.error = client.open({**headers, "streamType": "error"})
        client.finish(self.error)
        self.data = client.open({**headers, "streamType": "data"})

    def send(self, data: bytes) -> None:
        for at in range(0, len(data), FRAME):
            self.client.send(self.data, data[at : at + FRAME])

    def end(self) -> None:
        """Send no more; read on."""
        self.client.finish(self.data)

    def reset(self) -> None:
        """Give it up, both ways."""
        self.client.reset(self.data, CANCEL)

    @property
    def received(self) -> bytes:
        return bytes(self.client.streams[self.data].data)

    @property
    def refusal(self) -> str:
        """What the error stream says, when that has ended."""
        stream = self.client.streams[self.error]
        self.client.until(lambda: stream.ended or stream.reset)
        return stream.data.decode()

    def until_received(self, size: int) -> bytes:
        """Reads until that many bytes have come."""
        stream = self.client.streams[self.data]
        self.client.until(lambda: len(stream.data) >= size)
        return self.received

    def answer(self, patience: float = 60) -> bytes:
        """All that the pod says until its end; it must not break off."""
        stream = self.client.streams[self.data]
        self.client.until(lambda: stream.ended or stream.reset, patience)
        assert not stream.reset
        return self.received

    def broken_off(self) -> bool:
        """Whether the pod's end broke off, once it has ended in one way or the other."""
        stream = self.client.streams[self.data]
        self.client.until(lambda: stream.ended or stream.reset)
        return stream.reset


def meanwhile(work: Callable[[], None]) -> threading.Thread:
    """Sends while somebody else reads: who does only one after the other gets stuck."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
