"""The face of NRI for the daemon: the socket, and whether there is anybody to be asked.

Everything else, messages and all, is loaded when the first plugin comes, or is to be started: a
node without plugins pays for a listening socket, and each request for one look at `active`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cri.plugin_config import NriConfig

if TYPE_CHECKING:
    from cri.nri.host import Host
    from cri.nri.launch import Launched
    from cri.nri.relay import Relay

log = logging.getLogger(__name__)

_PEER = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_PROBE_SECONDS = 1.0


class Nri:
    """Used from the loop's thread. `start` before requests are served, `close` after."""

    def __init__(self, config: NriConfig) -> None:
        self._config = config
        self._host: Callable[[], Host] | None = None
        self._relay: Relay | None = None
        self._server: asyncio.Server | None = None
        self._launched: Launched | None = None
        self._inode = 0
        self.problem = ""

    @property
    def active(self) -> bool:
        """Whether requests have to be told to anybody."""
        return self._relay is not None and self._relay.active

    @property
    def relay(self) -> Relay:
        """To be asked for when it is `active`."""
        if self._relay is None:
            from cri.nri.relay import Relay

            assert self._host is not None
            self._relay = Relay(self._config, self._host())
        return self._relay

    async def start(self, host: Callable[[], Host]) -> None:
        """Start the node's own plugins and listen for others. What fails is logged.

        host: makes what plugins are told of, and ask of; called at most once.
        """
        self._host = host
        config = self._config
        if not config.enabled:
            return
        if config.default_validator.enable:
            _ = self.relay
        if config.plugin_path and os.path.isdir(config.plugin_path):  # noqa: ASYNC240 - ours
            from cri.nri.launch import Launched

            self._launched = Launched(config)
            await self._launched.start(self.relay)
        if config.socket:
            await self._listen(Path(config.socket))

    async def close(self) -> None:
        """Plugins are told, and those that we have started are ended."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                if os.stat(self._config.socket).st_ino == self._inode:  # else it's another's now
                    os.unlink(self._config.socket)
        if self._relay is not None:
            await self._relay.plugins.close()
        if self._launched is not None:
            await self._launched.close()

    def describe(self) -> dict[str, object]:
        """For people: where it listens, why not, and the plugins in their order."""
        return {
            "socket": self._config.socket if self._server is not None else "",
            "problem": self.problem,
            "plugins": self._relay.plugins.describe() if self._relay is not None else [],
        }

    async def _listen(self, path: Path) -> None:
        try:
            listening = await asyncio.to_thread(_bound, path)
        except OSError as error:
            self.problem = f"{path}: {error.strerror or error}: no plugin can connect"
            log.error("NRI: %s; see [nri] socket", self.problem)
            return
        self._inode = os.stat(path).st_ino
        self._server = await asyncio.start_unix_server(self._connected, sock=listening)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from cri.nri.peer import Identity

        peer: socket.socket = writer.get_extra_info("socket")
        pid, uid, _ = _PEER.unpack(
            peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        )
        if uid != 0:
            log.warning(
                "NRI: pid %d of user %d is turned away: only root may be a plugin", pid, uid
            )
            writer.close()
            return
        await self.relay.join((reader, writer), Identity(pid=pid))


def _bound(path: Path) -> socket.socket:
    """A socket for root alone, which nobody else listens at. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        if not path.is_socket():  # a mistyped path must not delete a file
            raise OSError(0, "is there and is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_PROBE_SECONDS)
            if probe.connect_ex(os.fspath(path)) == 0:
                raise OSError(0, "another runtime listens there")
        path.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.bind(os.fspath(path))
        path.chmod(0o600)  # nobody can connect before it listens
        made.listen()
    except OSError:
        made.close()
        raise
    return made
