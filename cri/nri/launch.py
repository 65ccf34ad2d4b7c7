"""Plugins that the node has installed: started with the daemon, each with a connected socket.

A file is one if its name is NN-name, root owns it, and nobody else can write to it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cri.nri.peer import Identity, Peer
from cri.nri.relay import Relay
from cri.plugin_config import NriConfig

log = logging.getLogger(__name__)

SOCKET, NAME, INDEX = "NRI_PLUGIN_SOCKET", "NRI_PLUGIN_NAME", "NRI_PLUGIN_IDX"
MOST_CONFIG = 1 << 20  # bytes
_FILE = re.compile(r"[0-9]{2}-[a-zA-Z0-9_.+-]{1,200}")
_END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Installed:
    """A program, and what it is to be told."""

    path: Path
    index: str
    name: str
    config: str


class Launched:
    """The processes. Used from the loop's thread."""

    def __init__(self, config: NriConfig) -> None:
        self._config = config
        self._endings: set[asyncio.Task[None]] = set()

    async def start(self, relay: Relay) -> None:
        """Start all of them, and wait until each is a plugin or can't be. Failures are logged."""
        try:
            found = await asyncio.to_thread(
                installed, Path(self._config.plugin_path), self._config.plugin_config_path
            )
        except OSError as error:
            log.error("NRI plugins can't be looked for: %s", error)
            return
        await asyncio.gather(*(self._start(one, relay) for one in found))

    async def close(self) -> None:
        """Their connections have ended: they have a moment to end as well."""
        await asyncio.gather(*self._endings)

    async def _start(self, one: Installed, relay: Relay) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.to_thread(_run, one, theirs)
        except OSError as error:
            ours.close()
            log.error("NRI plugin %s can't be started: %s", one.path, error)
            return
        identity = Identity(one.index, one.name, one.config, process.pid, started_by_us=True)
        streams = await asyncio.open_connection(sock=ours)
        peer = await relay.join(streams, identity)
        ending = asyncio.create_task(_ended(peer, process), name=f"end of NRI plugin {identity}")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)


async def _ended(peer: Peer | None, process: subprocess.Popen[bytes]) -> None:
    """A plugin whose connection has ended is of no use."""
    if peer is not None:
        await peer.ended.wait()
    await asyncio.to_thread(_end, process)


def installed(directory: Path, configs: str) -> list[Installed]:
    """In the order of their names. Blocks. What can't be one is logged and passed over."""
    found = []
    for path, why in candidates(directory):
        if why:
            log.warning("%s", why)
            continue
        index, _, name = path.name.partition("-")
        config = _config(Path(configs), path.name, name) if configs else ""
        found.append(Installed(path, index, name, config))
    return found


def candidates(directory: Path) -> Iterator[tuple[Path, str]]:
    """The programs in it, in the order of their names, each with why it is not started; "": it is.

    Blocks. Raises OSError where the directory can't be read.
    """
    for path in sorted(directory.iterdir()):
        try:
            status = path.stat()
        except OSError as error:
            yield path, f"{path} is no NRI plugin: {error.strerror}"
            continue
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
            continue
        if _FILE.fullmatch(path.name) is None:
            yield path, f"{path} is no NRI plugin: its name is not NN-name"
        elif status.st_uid != 0 or status.st_mode & 0o022:
            yield path, f"{path} is not started: root must own it, and nobody else write to it"
        else:
            yield path, ""


def _config(directory: Path, full_name: str, name: str) -> str:
    for file in (directory / f"{full_name}.conf", directory / f"{name}.conf"):
        try:
            with file.open(encoding="utf-8", errors="replace") as opened:
                return opened.read(MOST_CONFIG)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("NRI plugin %s starts without configuration: %s", full_name, error)
    return ""


def _run(one: Installed, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Its messages for people go where ours go."""
    return subprocess.Popen(
        [one.path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            NAME: one.name,
            INDEX: one.index,
            SOCKET: str(theirs.fileno()),
        },
        cwd="/",
        pass_fds=(theirs.fileno(),),
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
