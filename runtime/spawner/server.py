"""The spawner: one process with one thread that has everything loaded and forks monitors.

It never saw a thread, so a fork of it is whole; what it imported, its monitors share with it page
by page. It lives until the node goes down or another version of the code takes its place.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys

from runtime.cgroup import tree
from runtime.codec import decode, encode
from runtime.init import launch
from runtime.init.sandbox import Home, build, make_holder
from runtime.init.values import ContainerPlan, MountKind, MountStep, ProcessPlan
from runtime.linux import fds
from runtime.linux.fds import Message
from runtime.linux.process import Prctl, prctl
from runtime.monitor import main as monitor
from runtime.monitor.failures import failure_of
from runtime.monitor.logline import LineCutter
from runtime.monitor.messages import (
    REQUESTS,
    ContainerExit,
    Done,
    Executed,
    Failure,
    Identity,
    MonitorRequest,
    RunningContainer,
    SandboxReport,
    Stage,
    Started,
)
from runtime.spawner.messages import HELLO, QUIT, SPAWN


class Spawner:
    """Serves one listening SEQPACKET socket until it is told to quit."""

    def __init__(self, listener: socket.socket, version: str) -> None:
        self._listener = listener
        self._version = version
        self._holder_fd = make_holder()
        self._home = Home()
        self._hierarchy = tree.detect()
        self._connections: dict[int, socket.socket] = {}
        self._running = True

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while self._running:
            for fd, _ in poll.poll():
                if fd == self._listener.fileno():
                    connection, _ = self._listener.accept()
                    self._connections[connection.fileno()] = connection
                    poll.register(connection, select.POLLIN)
                elif not self._answer(self._connections[fd]):
                    poll.unregister(fd)
                    self._connections.pop(fd).close()

    def _answer(self, connection: socket.socket) -> bool:
        """One request and its answer; False when the connection is of no more use."""
        try:
            received = fds.receive(connection)
            if received is None:
                return False
            message, descriptors = received
            try:
                answer = self._act(message, descriptors)
            finally:
                fds.close_all(descriptors)
            fds.send(connection, answer)
        except (OSError, ValueError) as error:
            log(f"a connection is dropped: {error}")
            return False
        return True

    def _act(self, message: Message, descriptors: list[int]) -> Message:
        do = message.get("do")
        if do == HELLO:
            return {"version": self._version, "pid": os.getpid()}
        if do == SPAWN:
            return self._spawn(message, descriptors)
        if do == QUIT:
            self._running = False
            return {}
        return {"failed": f"unknown request {do!r}"}

    def _spawn(self, message: Message, descriptors: list[int]) -> Message:
        request = decode(MonitorRequest, message.get("request"), path="request")
        if len(descriptors) != 2:
            raise ValueError(f"spawn: expected two descriptors, got {len(descriptors)}")
        try:
            namespaces = build(request.sandbox, request.netns_path, self._holder_fd)
        except (OSError, ValueError) as error:
            self._go_home()
            return {"failed": encode(failure_of(error))}
        pid = os.fork()
        if pid:
            self._go_home()
            namespaces.close()
            return {"pid": pid}
        try:
            self._forget()
            listener, connection = (socket.socket(fileno=fd) for fd in descriptors)
            monitor.run(request, namespaces, self._hierarchy, (listener, connection))
        except BaseException as error:  # noqa: BLE001 - a fork never returns
            log(f"monitor of sandbox {request.sandbox.sandbox_id} died: {error!r}")
            os._exit(1)
        os._exit(0)

    def _go_home(self) -> None:
        """Back to the node's namespaces. A spawner that can't is of no use: the next one can."""
        try:
            self._home.enter()
        except OSError as error:
            log(f"lost between namespaces: {error}")
            os._exit(1)

    def _forget(self) -> None:
        """In the fork: what belongs to the spawner alone."""
        self._home.close()
        os.close(self._holder_fd)
        self._listener.close()
        for connection in self._connections.values():
            connection.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def log(text: str) -> None:
    """One line to standard error (the journal, or spawner.log); failing to write is no failure."""
    try:
        os.write(2, f"podwright-spawner[{os.getpid()}]: {text}\n".encode(errors="replace"))
    except OSError:
        return


def warm_up() -> None:
    """Does once what every monitor and every init would do for the first time."""
    launch.warm_up()
    plan = ContainerPlan(
        ProcessPlan(args=("true",)), mounts=(MountStep(MountKind.NEW, "/proc", "proc"),)
    )
    decode(ContainerPlan, encode(plan))
    for kind in REQUESTS.values():
        with contextlib.suppress(ValueError):
            decode(kind, {})  # makes the decoder, then finds a field missing
    for answer in (
        Started(1, 1, Identity(0, 0, (0,)), (Stage("x", 0, 0),), ("x",)),
        Executed(0),
        Done(),
        Failure("InitFailed", "x"),
        ContainerExit("x", "x", 0, 0),
        SandboxReport("x", 1, (RunningContainer("x", 1, 1),)),
    ):
        encode(answer)
    LineCutter("stdout").feed(b"x\n", 0)


def main() -> None:
    """Arguments: the descriptor of a bound, listening socket, and the version to answer with."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    version = sys.argv[2]
    os.chdir("/")
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors are reaped by the kernel
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the daemon is not for its pods
    prctl(Prctl.SET_DUMPABLE, 0)
    spawner = Spawner(listener, version)
    warm_up()
    gc.collect()
    gc.freeze()  # the collector never writes to a page that forks share
    gc.disable()
    log(f"version {version} serves")
    spawner.serve()
