"""A stage for port forwarding: our server, a client in a thread, real TCP in place of the pod."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from cri.endpoint import Endpoint
from cri.streaming.forwarding import PortForward
from cri.streaming.loopback import dial_loopback
from cri.streaming.server import StreamServer, StreamSettings
from cri.tests.parts import eventually
from e2e.forward_client import PROTOCOL
from e2e.spdy_client import SpdyClient

CHUNK = 256 * 1024
PATIENCE = 20.0


class Pod:
    """A server's side, played by hand."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.listening = socket.socket(family, socket.SOCK_STREAM)
        self.listening.settimeout(PATIENCE)
        self.listening.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self.listening.listen(1024)
        self.port: int = self.listening.getsockname()[1]
        self._accepted: list[socket.socket] = []

    def accept(self) -> socket.socket:
        connection, _ = self.listening.accept()
        connection.settimeout(PATIENCE)
        self._accepted.append(connection)
        return connection

    def close(self) -> None:
        for made in (self.listening, *self._accepted):
            made.close()


def read(connection: socket.socket, size: int = -1) -> bytes:
    """So many bytes, or all until the end."""
    got = bytearray()
    while size < 0 or len(got) < size:
        piece = connection.recv(CHUNK)
        if not piece:
            break
        got += piece
    return bytes(got)


def reset(connection: socket.socket) -> None:
    """Closes with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def never() -> None:
    """A pod that is not stopped."""
    await asyncio.Event().wait()


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the plays are played."""

    server: StreamServer
    pod: Pod

    def url(self, *ports: int, **changes: object) -> str:
        purpose = PortForward("a pod", ports, **{"dial": dial_loopback, "gone": never, **changes})  # type: ignore[arg-type]
        return self.server.url(purpose)

    async def play(self, play: Callable[[SpdyClient], None], url: str = "") -> None:
        """A client's part, in a thread; its connection ends with it."""

        def run() -> None:
            with SpdyClient(url or self.url(), PROTOCOL) as client:
                play(client)

        await asyncio.to_thread(run)


@contextlib.asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    """A server and a pod; when the server is closed nothing of the sessions may be left."""
    pod = Pod()
    server = StreamServer(StreamSettings(Endpoint.parse("127.0.0.1:0")))
    await server.start()
    try:
        yield Stage(server, pod)
    finally:
        await server.close()
        pod.close()
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
