"""A client of streams over SPDY, as kubectl and crictl are: blocking, for tests.

with SpdyClient(url, "v4.channel.k8s.io") as client:
    command = Command(client, ["stdin", "stdout"])
    command.send(b"hello"); command.end_input()
    assert command.result().stdout == b"hello"
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cri.streaming.spdy import Connection
from cri.streaming.spdy_events import DataReceived, Event, StreamReplied, StreamReset

CHUNK = 256 * 1024
PATIENCE = 20.0


class NotUpgraded(Exception):
    """The server has answered something else than 101."""

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.headers = headers


@dataclass(slots=True)
class Received:
    """What has come on one stream. ended: by the peer's FIN; reset: given up by it."""

    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: bool = False


class SpdyClient:
    """A connection that has been upgraded."""

    def __init__(
        self,
        url: str,
        *protocols: str,
        method: str = "POST",
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Connects and upgrades. Raises NotUpgraded."""
        target = urlsplit(url)
        assert target.hostname is not None
        plain = socket.create_connection((target.hostname, target.port or 80), timeout=PATIENCE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = target.scheme == "https"
        self.socket = plain
        if secure:
            context = context or ssl.create_default_context()
            self.socket = context.wrap_socket(plain, server_hostname="localhost")
        lines = [
            f"{method} {target.path}{target.query and '?' + target.query} HTTP/1.1",
            f"Host: {target.netloc}",
            "Connection: Upgrade",
            "Upgrade: SPDY/3.1",
            *(f"X-Stream-Protocol-Version: {protocol}" for protocol in protocols),
        ]
        self.socket.sendall("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")
        self.connection = Connection(client=True)
        self.streams: dict[int, Received] = {}
        self.closed = False
        try:
            self.headers = self._upgraded()
        except BaseException:
            self.socket.close()
            raise

    @property
    def protocol(self) -> str:
        """The one that the server has chosen."""
        return self.headers.get("x-stream-protocol-version", "")

    def _upgraded(self) -> dict[str, str]:
        status, headers, rest = read_head(self.socket)
        if status != 101:
            raise NotUpgraded(status, headers, read_body(self.socket, headers, rest))
        self._take(rest)
        return headers

    def open(self, headers: Mapping[str, str], *, fin: bool = False) -> int:
        """Opens a stream; its id."""
        stream_id = self.connection.open(headers, fin=fin)
        self.streams[stream_id] = Received()
        self.flush()
        return stream_id

    def send(self, stream_id: int, data: bytes | memoryview, *, fin: bool = False) -> None:
        """In one frame; blocks while the server does not read."""
        self.socket.sendall(self.connection.data_header(stream_id, len(data), fin=fin))
        self.socket.sendall(data)

    def finish(self, stream_id: int) -> None:
        self.connection.finish(stream_id)
        self.flush()

    def reset(self, stream_id: int, status: int) -> None:
        self.connection.reset(stream_id, status)
        self.flush()

    def flush(self) -> None:
        if data := self.connection.take():
            self.socket.sendall(data)

    def read(self) -> bool:
        """Receives once; False: the server has closed the connection."""
        try:
            data = self.socket.recv(CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return False
        self._take(data)
        self.flush()
        return True

    def until(self, ready: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Receives until a condition is met. AssertionError: it will never be, or too late."""
        deadline = time.monotonic() + patience
        while not ready():
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            assert self.read(), "the server has closed the connection"
        self.socket.settimeout(PATIENCE)

    def _take(self, data: bytes) -> None:
        for event in self.connection.receive(data):
            self._understand(event)

    def _understand(self, event: Event) -> None:
        match event:
            case DataReceived():
                stream = self.streams[event.stream_id]
                stream.data += event.data
                stream.ended |= event.fin
            case StreamReset():
                self.streams[event.stream_id].reset = True
            case StreamReplied():
                self.streams[event.stream_id].ended |= event.fin
            case _:
                pass

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> SpdyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Result:
    """What a command has said. status: of the error stream: JSON from version 4 on."""

    stdout: bytes
    stderr: bytes
    status: str

    @property
    def exit_code(self) -> int:
        """Of a JSON status. AssertionError with its text if it is no exit code."""
        status = self.json()
        if status["status"] == "Success":
            return 0
        assert status["reason"] == "NonZeroExitCode", self.status
        causes = status["details"]["causes"]
        return next(int(c["message"]) for c in causes if c["reason"] == "ExitCode")

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.status)
        return found


class Command:
    """An exec or attach on a connection: a stream a channel."""

    def __init__(self, client: SpdyClient, channels: Sequence[str]) -> None:
        """channels: stdin, stdout, stderr, resize: those that were asked for."""
        self.client = client
        names = ("error", *channels)
        self._ids = {name: client.open({"streamType": name}) for name in names}
        for name in ("error", "stdout", "stderr"):
            if name in self._ids:
                client.finish(self._ids[name])

    def received(self, channel: str) -> Received:
        return self.client.streams[self._ids[channel]]

    def stream(self, channel: str) -> int:
        return self._ids[channel]

    @property
    def stdout(self) -> bytes:
        return bytes(self.received("stdout").data)

    def send(self, data: bytes | memoryview) -> None:
        self.client.send(self._ids["stdin"], data)

    def end_input(self) -> None:
        self.client.finish(self._ids["stdin"])

    def resize(self, width: int, height: int) -> None:
        size = json.dumps({"Width": width, "Height": height}).encode() + b"\n"
        self.client.send(self._ids["resize"], size)

    def until_said(self, text: bytes) -> None:
        self.client.until(lambda: text in self.received("stdout").data)

    def result(self, patience: float = PATIENCE) -> Result:
        """Reads to the end."""
        outputs = [name for name in ("error", "stdout", "stderr") if name in self._ids]
        self.client.until(lambda: all(self.received(name).ended for name in outputs), patience)
        said = {name: bytes(self.received(name).data) for name in outputs}
        return Result(said.get("stdout", b""), said.get("stderr", b""), said["error"].decode())


def read_head(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """An HTTP response's status, its headers by lower-case name, and what came after them."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(4096)
        assert piece, f"no HTTP response: {data!r}"
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {n.strip().lower(): v.strip() for n, _, v in pairs}, rest


def read_body(connection: socket.socket, headers: Mapping[str, str], rest: bytes) -> str:
    while len(rest) < int(headers.get("content-length", "0")):
        piece = connection.recv(4096)
        assert piece, "the body is cut short"
        rest += piece
    return rest.decode()
