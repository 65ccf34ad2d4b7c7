"""What a shim says where nobody calls it: where it listens, and its log."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from runtime.linux import fds
from runtime.linux.fds import Socket
from runtime.monitor.shim.bundle import House
from runtime.monitor.shim.link import SERVICES
from runtime.monitor.shim.plan import PLACE
from runtime.monitor.shim.task_pb2 import BootstrapResult

if TYPE_CHECKING:
    from runtime.monitor.pod import Pod

_CHATTER = ("level=info", "level=debug")
_MOST_SAID = 65536  # bytes that are read at a time


class Log:
    """What the shim writes for people: with the monitor's own, where it is a warning or worse."""

    def __init__(self, pod: Pod, handler: str) -> None:
        self._loop = pod.loop
        self._name = f"{handler} {pod.sandbox_id[:12]}"
        self._fd = -1

    def open(self, fd: int) -> None:
        """fd: a FIFO, open for both directions, so that it has no end; owned."""
        self._fd = fd
        self._loop.watch(fd, self._read)

    def close(self) -> None:
        if self._fd >= 0:
            self._read()
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        for line in everything(self._fd).decode(errors="replace").splitlines():
            if not any(level in line for level in _CHATTER):
                fds.log(f"{self._name}: {line[:1000]}")


def where(said: bytes) -> tuple[str, str]:
    """The name of the task service and the path of the socket, from what `start` has printed.

    Until containerd 1.6 an address; then JSON {version, address, protocol}; in 2.3 a message with
    the same fields. Raises ValueError for what can't be used.
    """
    try:
        told = _told(said)
    except (DecodeError, ValueError, TypeError, RecursionError):
        told = BootstrapResult()
    if not told.address:
        raise ValueError(f"start has printed no address: {said[:200]!r}")
    if told.version not in SERVICES or told.protocol.lower() != "ttrpc":
        spoken = f"it speaks {told.protocol} version {told.version}"
        raise ValueError(f"{spoken}, and podwright ttrpc version 2 or 3")
    path = told.address.removeprefix("unix://")
    if not path.startswith("/") or path == told.address:
        raise ValueError(
            f"it listens at {told.address!r}: not a socket with a path, which has permissions"
        )
    return SERVICES[told.version], path


def _told(said: bytes) -> BootstrapResult:
    if said.startswith(b"unix:"):
        return BootstrapResult(version=2, address=said.decode().strip(), protocol="ttrpc")
    if not said.startswith(b"{"):
        return BootstrapResult.FromString(said)
    told = json.loads(said)
    return BootstrapResult(
        version=told.get("version", 2),
        address=told.get("address", ""),
        protocol=told.get("protocol", "ttrpc"),
    )


def connect(house: House, path: str) -> Socket:
    """A connection to the socket. Raises OSError.

    A path under PLACE is one in the shim's tmpfs, which only a descriptor leads to.
    """
    if path.startswith(f"{PLACE}/"):
        path = f"/proc/self/fd/{house.place_fd}{path.removeprefix(PLACE)}"
    return fds.adopt(fds.connect(path, socket.SOCK_STREAM).detach())


def everything(fd: int) -> bytes:
    """What can be read of a non-blocking descriptor without waiting."""
    try:
        return os.read(fd, _MOST_SAID)
    except OSError:
        return b""
