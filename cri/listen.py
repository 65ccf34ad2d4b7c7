"""Where CRI is served: a socket in a directory, an abstract one, or one that systemd passed.

gRPC binds unix sockets by path itself. It can neither take over a socket that is already listening,
nor ask who is at the other end of an abstract one, which has no file mode: everybody on the node
may connect. So for these two we accept, look who it is, and pass bytes on to gRPC's own socket in
the state directory:

    client ── passed or abstract socket ── Relay ── <state>/relay.sock ── gRPC

That costs 25 µs a request; a socket by path costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

SOCKET_MODE = 0o660
PATH_LIMIT = 107  # bytes of sun_path, less its zero
CHUNK = 256 * 1024


class CantListen(Exception):
    """The address can't be served; the text names it and says why."""


class Server(Protocol):
    """What is needed of a grpc.aio.Server."""

    def add_insecure_port(self, address: str) -> int: ...


class Relay:
    """Accepts connections and passes their bytes to and from another unix socket."""

    def __init__(self, target: Path, *, root_only: bool) -> None:
        """root_only: turn away peers of other users, for sockets that have no file mode."""
        self._target = target
        self._root_only = root_only
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, listening: socket.socket) -> None:
        """Accept on a socket that is bound and, perhaps, listening already."""
        self._servers.append(
            await asyncio.start_unix_server(self._connected, sock=listening, limit=CHUNK)
        )

    async def close(self) -> None:
        """Accept no more, and end the connections that are left."""
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._root_only and (user := _peer_uid(writer)) not in (0, os.geteuid()):
            log.warning("turned away a connection of user %d: only root may ask", user)
            writer.close()
            return
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(
                self._target, limit=CHUNK
            )
        except OSError as error:
            log.warning("can't pass a connection on to %s: %s", self._target, error)
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
        finally:
            self._connections.discard(task)


async def listen(
    server: Server, endpoint: str, state: Path, passed: Sequence[socket.socket] = ()
) -> contextlib.AsyncExitStack:
    """Have the server serve an endpoint, or, instead of it, the sockets that systemd passed.

    endpoint: unix:///path, unix:/path, unix-abstract:name or unix://@name. Closing what is returned
    removes what was made. Raises CantListen.
    """
    async with contextlib.AsyncExitStack() as stack:
        name = _abstract_name(endpoint)
        if not passed and not name:
            path = Path("/" + endpoint.removeprefix("unix:").lstrip("/"))
            _bind(server, path)
            stack.callback(_unlink, path)
            return stack.pop_all()
        inner = state / "relay.sock"
        _bind(server, inner)
        stack.callback(_unlink, inner)
        for listening in passed or [_abstract(name)]:
            relay = Relay(inner, root_only=_is_abstract(listening))
            await relay.start(listening)
            stack.push_async_callback(relay.close)
        return stack.pop_all()


def _abstract_name(endpoint: str) -> str:
    for prefix in ("unix-abstract:", "unix://@"):
        if endpoint.startswith(prefix):
            return endpoint.removeprefix(prefix)
    return ""


def _abstract(name: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(f"\0{name}")
    except OSError as error:
        made.close()
        raise CantListen(f"unix-abstract:{name}: {error.strerror}") from error
    return made


def _is_abstract(listening: socket.socket) -> bool:
    address = listening.getsockname()
    return not address or address[:1] in ("\0", b"\0")


def _bind(server: Server, path: Path) -> None:
    """Bind gRPC to a path, readable for root and its group alone from the first moment."""
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise CantListen(f"{path}: too long for a unix socket ({PATH_LIMIT} bytes): set `address`")
    if _answers(path):
        raise CantListen(f"{path}: another program serves this socket: stop it, or set `address`")
    if path.exists() and not path.is_socket():  # a mistyped address must not delete a file
        raise CantListen(f"{path}: is there and is no socket: remove it, or set `address`")
    try:
        _unlink(path)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mask = os.umask(0o777 & ~SOCKET_MODE)
        try:
            server.add_insecure_port(f"unix:{path}")
            path.chmod(SOCKET_MODE)
        finally:
            os.umask(mask)
    except (RuntimeError, OSError) as error:
        raise CantListen(f"{path}: no socket can be made there ({error}): set `address`") from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until the end, as fast as the other side takes them."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
