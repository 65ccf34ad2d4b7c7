"""A pod's monitor: builds its namespaces, is the parent of its processes, keeps its exits.

It lives exactly as long as its pod and needs no daemon: it drains logs, reaps, and writes exits
down before it tells them. One thread, one loop.
"""

from __future__ import annotations

import contextlib
import os
import socket

from runtime.codec import encode
from runtime.init.sandbox import PodNamespaces, build
from runtime.linux import fds
from runtime.linux.process import Prctl, prctl, start_time
from runtime.monitor.failures import failure_of
from runtime.monitor.loop import Loop
from runtime.monitor.messages import MonitorRequest, Ready, Stage
from runtime.monitor.pod import Pod
from runtime.monitor.reaper import Reaper
from runtime.monitor.server import Server


def run(request: MonitorRequest, connection: socket.socket, holder_fd: int) -> None:
    """The whole life of a monitor; returns when the pod has been shut down.

    connection: a SEQPACKET socket to the daemon that asked for the pod; holder_fd: the spawner's
    empty mount namespace.
    """
    prctl(Prctl.SET_CHILD_SUBREAPER, 1)
    listener: socket.socket | None = None
    try:
        os.makedirs(os.path.join(request.directory, "exits"), mode=0o700, exist_ok=True)
        _write_pid(request.directory)
        listener = fds.bind(os.path.join(request.directory, "monitor.sock"))
        namespaces = build(request.sandbox, request.netns_path, holder_fd)
    except (OSError, ValueError) as error:
        if listener is not None:
            listener.close()
        message = {"event": "failed", **_object(encode(failure_of(error)))}
        with contextlib.suppress(OSError):
            fds.send(connection, message)
        return
    loop = Loop()
    pod = Pod(request, namespaces, loop, Reaper(loop))
    server = Server(pod, listener, loop)
    server.add(connection)
    _say_ready(connection, namespaces)
    loop.run()


def _say_ready(connection: socket.socket, namespaces: PodNamespaces) -> None:
    stages = tuple(Stage(*stage) for stage in namespaces.stages)
    message = {"event": "ready", **_object(encode(Ready(os.getpid(), stages=stages)))}
    handles = [namespaces.netns_fd, namespaces.netlink_fd] if namespaces.netns_fd >= 0 else []
    with contextlib.suppress(OSError):
        fds.send(connection, message, handles)
    fds.close_all(handles)  # the pin and our own membership keep the namespace


def _write_pid(directory: str) -> None:
    """So that a monitor that hangs can be found and killed: its pid and start time."""
    with open(os.path.join(directory, "pid"), "w", encoding="ascii") as file:
        file.write(f"{os.getpid()} {start_time(os.getpid())}")


def _object(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value
