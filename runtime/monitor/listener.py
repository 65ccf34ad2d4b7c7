"""Hands the listener of a process's seccomp filter to who answers for it.

Loaded by a monitor when the first of its processes has one. Source: runtime-spec config-linux.md,
"The Container Process State".
"""

from __future__ import annotations

import _socket
import json
import os
from typing import TYPE_CHECKING, cast

from runtime.errors import InitFailed
from runtime.init import channel
from runtime.linux import fds, pidfd
from runtime.linux.fds import Socket

if TYPE_CHECKING:
    from runtime.monitor.container import Container

_STEP = "seccomp"


def hand_over(container: Container, stage: str, process: tuple[int, int], peer: Socket) -> None:
    """Lets init go on then. stage: its word, with its descriptor; process: of the container, or
    another one in it: pid and pidfd; peer: its channel. Waits for nobody.

    Raises InitFailed, OSError.
    """
    listener = container.load_process().listener
    assert listener is not None
    path, told = listener.path, cast("dict[str, object]", json.loads(listener.state))
    told["pid"] = process[0]
    cast("dict[str, object]", told["state"])["pid"] = container.pid
    try:
        fd = pidfd.getfd(process[1], int(stage.rpartition(" ")[2]))
    except OSError as error:
        text = "its listener can't be taken over, for which podwright needs CAP_SYS_PTRACE"
        raise InitFailed(_STEP, error.errno or 0, text) from error
    try:
        _tell(path, json.dumps(told).encode(), fd)
    except OSError as error:
        text = f'listenerPath "{path}": nobody there takes the listener'
        raise InitFailed(_STEP, error.errno or 0, text) from error
    finally:
        os.close(fd)
    channel.resume(peer)


def _tell(path: str, document: bytes, fd: int) -> None:
    agent = _socket.socket(
        _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    )
    try:
        with fds.short_path(path) as short:
            agent.connect(short)
        fds.send_packet(agent, document, (fd,))
    finally:
        agent.close()
