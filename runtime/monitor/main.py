"""A pod's monitor: the parent of its processes, which keeps their exits.

It lives exactly as long as its pod and needs no daemon: it drains logs, reaps, and writes exits
down before it tells them. One thread, one loop.

Born in the pod's namespaces, which the spawner has made. What runs here touches, and so copies,
memory that all monitors share otherwise: what can be done elsewhere is.
"""

from __future__ import annotations

import contextlib
import os
import socket

from runtime.cgroup.tree import Hierarchy
from runtime.init.sandbox import PodNamespaces, start_reaper
from runtime.linux import fds
from runtime.linux.process import Prctl, prctl, start_time
from runtime.monitor.loop import Loop
from runtime.monitor.messages import PROTOCOL, MonitorRequest
from runtime.monitor.pod import Pod
from runtime.monitor.server import Server


def run(
    request: MonitorRequest,
    namespaces: PodNamespaces,
    hierarchy: Hierarchy,
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    """The whole life of a monitor; returns when the pod has been shut down.

    sockets: the listening monitor.sock, and the first connection, to the daemon that asked.
    """
    listener, connection = sockets
    prctl(Prctl.SET_CHILD_SUBREAPER, 1)
    _write_pid(request.directory)
    if request.sandbox.pid == "pod":
        start_reaper(namespaces)
    loop = Loop()
    server = Server(Pod(request, namespaces, hierarchy, loop), listener, loop)
    server.add(connection)
    handles = [fd for fd in (namespaces.netns_fd, namespaces.netlink_fd) if fd >= 0]
    ready = {
        "event": "ready",
        "pid": os.getpid(),
        "protocol": PROTOCOL,
        "stages": [{"name": n, "start": s, "duration": d} for n, s, d in namespaces.stages],
    }
    with contextlib.suppress(OSError):  # a dead daemon's successor finds us by monitor.sock
        fds.send(connection, ready, handles)
    fds.close_all(handles)  # the pin and our own membership keep the namespace
    loop.run()


def _write_pid(directory: str) -> None:
    """So that a monitor that hangs can be found and killed: its pid and start time."""
    fd = os.open(f"{directory}/pid", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, f"{os.getpid()} {start_time(os.getpid())}".encode())
    os.close(fd)
