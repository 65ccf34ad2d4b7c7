"""The HTTP server of streams: a token's URL for those who ask, a stream for those who come.

rpc ── purpose ──▶ url() ── http://127.0.0.1:PORT/exec/TOKEN ──▶ kubelet, crictl
client ── GET or POST of it ──▶ purpose, once ── 101 ──▶ its Stream, until that ends
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from cri.endpoint import Endpoint
from cri.streaming.http import Refused, Request, RequestReader
from cri.streaming.peer import Deaf, Hangups, Peer
from cri.streaming.purpose import Purpose
from cri.streaming.tls import CantServe, Certificate, TlsFiles
from cri.streaming.tokens import Tokens
from cri.streaming.upgrade import Upgrade, upgrade

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0  # for a request to arrive
MOST_WAITING = 256  # connections without a request; then the oldest of them has to go
MOST_CONNECTIONS = 1024
END_SECONDS = 3.0  # for streams to end with the daemon
CREATION_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Times in seconds. tls: None means plain HTTP, for loopback alone."""

    endpoint: Endpoint
    idle_timeout: float = 4 * 3600.0
    creation_timeout: float = CREATION_TIMEOUT
    tls: TlsFiles | None = None


class StreamServer:
    """Listens from `start` to `close`."""

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings
        self._tokens: Tokens[Purpose] = Tokens()
        self._waiting: dict[Peer, None] = {}  # without a request as yet, oldest first
        self._peers: set[Peer] = set()
        self._streams: set[asyncio.Task[None]] = set()
        self._refusals: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._certificate: Certificate | None = None
        self._following: asyncio.Task[None] | None = None
        self._hangups: Hangups
        self._port = 0

    async def start(self) -> None:
        """Raises CantServe."""
        endpoint = self.settings.endpoint
        if self.settings.tls is not None:
            self._certificate = Certificate(self.settings.tls)
            await self._certificate.load()
            self._following = asyncio.create_task(self._certificate.follow())
        self._hangups = Hangups()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._accept,
                str(endpoint.address),
                endpoint.port,
                ssl=self._certificate.context if self._certificate else None,
                ssl_handshake_timeout=HEAD_SECONDS if self._certificate else None,
            )
        except OSError as error:
            await self.close()
            text = f"streaming: can't listen on {endpoint.address} port {endpoint.port}"
            raise CantServe(f"{text}: {error.strerror}: set streaming.address") from error
        self._port = self._server.sockets[0].getsockname()[1]

    def url(self, purpose: Purpose) -> str:
        """Where a client gets what was allowed, once, soon. Raises StreamsExhausted."""
        scheme = "https" if self._certificate else "http"
        authority = self.settings.endpoint.authority(self._port)
        return f"{scheme}://{authority}/{purpose.kind}/{self._tokens.mint(purpose)}"

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    async def close(self) -> None:
        """Take no more connections, and end those that there are. Pods live on."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for peer in list(self._waiting):
            peer.abort("the daemon ends")
        for task in self._streams:
            task.cancel()
        if self._streams:
            await asyncio.wait(self._streams, timeout=END_SECONDS)
        for peer in list(self._peers):
            peer.abort("the daemon ends")
        if tasks := self._streams | self._refusals:
            await asyncio.wait(tasks, timeout=1)
        self._hangups.close()

    # a connection's life

    def _accept(self) -> Peer:
        peer = Peer(self._hangups, self.settings.idle_timeout)
        self._peers.add(peer)
        self._waiting[peer] = None
        peer.talk = _Greeting(self, peer)
        if len(self._waiting) > MOST_WAITING:
            self.drop(next(iter(self._waiting)), "too many connections without a request")
        elif len(self._peers) > MOST_CONNECTIONS:
            self.drop(peer, f"there are {MOST_CONNECTIONS} connections already")
        return peer

    def drop(self, peer: Peer, reason: str) -> None:
        """A connection that has not begun to be of use."""
        log.debug("streaming: %s: %s", peer.name or "a client", reason)
        peer.abort(reason)

    def conclude(self, peer: Peer) -> None:
        """A connection to which all is said."""

        async def run() -> None:
            await peer.finish()
            self.forget(peer)

        task = asyncio.create_task(run())
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    def forget(self, peer: Peer) -> None:
        """A connection that has ended."""
        self._waiting.pop(peer, None)
        self._peers.discard(peer)

    def find(self, request: Request) -> Purpose:
        """What a request has the token of; it is used up. Raises Refused."""
        if request.method not in ("GET", "POST"):
            raise Refused(405, "streams begin with GET or POST", [("Allow", "GET, POST")])
        kind, _, token = request.path.removeprefix("/").partition("/")
        purpose = self._tokens.take(token)
        if purpose is None or purpose.kind != kind:
            raise Refused(404, "no such stream: a URL is good for one minute and for one use")
        return purpose

    def serve(self, peer: Peer, purpose: Purpose, switched: Upgrade, rest: bytes) -> None:
        """From here on the connection belongs to the stream."""
        self._waiting.pop(peer, None)
        stream = purpose.begin(peer, switched)
        peer.talk = stream

        async def run() -> None:
            started = time.monotonic()
            outcome = "failed"
            try:
                outcome = await stream.run()
            except asyncio.CancelledError:
                outcome = "the daemon ends"
            finally:
                peer.abort(outcome)
                self.forget(peer)
                log.info(
                    "%s over %s for %s: %s after %.2f s",
                    *(f"{purpose.kind} {purpose.subject}", switched.transport, peer.name),
                    *(outcome, time.monotonic() - started),
                )

        task = asyncio.create_task(run(), name=f"{purpose.kind} {peer.name}")
        self._streams.add(task)
        task.add_done_callback(self._ended)
        if rest:
            peer.again(rest)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._streams.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("streaming: %s failed", task.get_name(), exc_info=error)


class _Greeting(Deaf):
    """Reads the request of a new connection, in the time it has. A `Talk`."""

    def __init__(self, server: StreamServer, peer: Peer) -> None:
        self._server = server
        self._peer = peer
        self._reader = RequestReader()
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._too_late)

    def received(self, data: bytes) -> None:
        try:
            request = self._reader.feed(data)
            if request is None:
                return
            self._timer.cancel()
            purpose = self._server.find(request)
            switched = upgrade(request, purpose.offer)
        except Refused as refused:
            self._refuse(refused)
            return
        self._peer.write(self._reader.switch(switched.headers))
        self._server.serve(self._peer, purpose, switched, self._reader.rest)

    def lost(self, reason: str) -> None:
        self._timer.cancel()
        self._server.forget(self._peer)

    def _too_late(self) -> None:
        self._refuse(Refused(408, f"no request in {HEAD_SECONDS:g} s"))

    def _refuse(self, refused: Refused) -> None:
        self._timer.cancel()
        log.debug("streaming: %s: refused: %d %s", self._peer.name, refused.status, refused)
        self._peer.write(self._reader.refuse(refused))
        self._server.conclude(self._peer)
