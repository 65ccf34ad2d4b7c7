"""The spawner: one process with one thread that has everything loaded and forks monitors.

It never saw a thread, so a fork of it is whole; what it imported, its monitors share with it page
by page. It lives until the node goes down or another version of the code takes its place.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from runtime.cgroup import tree
from runtime.codec import decode, encode
from runtime.errors import RuntimeFault, SpawnerUnavailable
from runtime.init import launch
from runtime.init.rootfs import mapping_refusal
from runtime.init.sandbox import Home, PodNamespaces, build, make_holder, unpin
from runtime.init.values import ContainerPlan, MountKind, MountStep, ProcessPlan
from runtime.linux import fds
from runtime.linux.fds import Message, log
from runtime.linux.process import Prctl, prctl, start_time
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
from runtime.spawner import zygote
from runtime.spawner.messages import HELLO, PROBE, QUIT, SPAWN, Spawned


class Spawner:
    """Serves one listening SEQPACKET socket until it is told to quit."""

    def __init__(self, listener: socket.socket, version: str, stage: zygote.Stage) -> None:
        self._listener = listener
        self._version = version
        self._stage = stage
        self._holder_fd = stage.holder_fd
        self._zygote: zygote.Zygote | None = None  # made when who started us has been greeted
        self._home = Home()
        self._connections: dict[int, socket.socket] = {}
        self._running = True

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while self._running:
            ready = poll.poll(0 if self._zygote is None else None)
            if not ready:
                self._make_zygote().prepare()
            for fd, _ in ready:
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
            handles: list[int] = []
            try:
                answer, handles = self._act(message, descriptors)
                fds.send(connection, answer, handles)
            finally:
                fds.close_all((*descriptors, *handles))
            if self._zygote is not None:
                self._zygote.prepare()  # now that nobody waits
        except (OSError, ValueError) as error:
            log(f"a connection is dropped: {error}")
            return False
        return True

    def _act(self, message: Message, descriptors: list[int]) -> tuple[Message, list[int]]:
        """The answer, and the descriptors that go with it."""
        do = message.get("do")
        if do == HELLO:
            return {"version": self._version, "pid": os.getpid()}, []
        if do == SPAWN:
            return self._spawn(message, descriptors)
        if do == PROBE:
            first, second = cast("list[str]", message["layers"])
            return {"refusal": mapping_refusal(first, second)}, []
        if do == QUIT:
            self._running = False
            return {}, []
        failure = RuntimeFault(f"this spawner doesn't know {do!r}")
        return {"failed": encode(failure_of(failure))}, []

    def _spawn(self, message: Message, descriptors: list[int]) -> tuple[Message, list[int]]:
        """Builds the pod's namespaces around us, has the monitor forked in there, comes home."""
        request = decode(MonitorRequest, message.get("request"), path="request")
        if len(descriptors) != 2:
            raise ValueError(f"spawn: expected two descriptors, got {len(descriptors)}")
        namespaces = None
        forker = self._make_zygote(descriptors)  # before we leave the node's namespaces
        try:
            namespaces = build(request.sandbox, request.netns_path, self._holder_fd)
            pid = _fork(forker, request, namespaces, descriptors)
        except (OSError, ValueError, RuntimeFault) as error:
            if namespaces is not None:
                namespaces.close()
            return {"failed": encode(failure_of(error))}, []
        finally:
            self._go_home()
        fds.close_all((namespaces.mount_fd, namespaces.user_fd))
        handles = [fd for fd in (namespaces.netns_fd, namespaces.netlink_fd) if fd >= 0]
        stages = tuple(Stage(*stage) for stage in namespaces.stages)
        return {"ok": encode(Spawned(pid, stages))}, handles

    def _make_zygote(self, descriptors: Sequence[int] = ()) -> zygote.Zygote:
        """descriptors: what we have just been sent. Nobody would see the end of what it keeps."""
        if self._zygote is None:
            connections = (connection.fileno() for connection in self._connections.values())
            own = (self._listener.fileno(), *self._home.descriptors)
            ours = (*own, *connections, *descriptors)
            self._zygote = zygote.Zygote(self._stage, ours)
        return self._zygote

    def _go_home(self) -> None:
        """Back to the node's namespaces. A spawner that can't is of no use: the next one can."""
        try:
            self._home.enter()
        except OSError as error:
            log(f"lost between namespaces: {error}")
            os._exit(1)


def _fork(
    forker: zygote.Zygote,
    request: MonitorRequest,
    namespaces: PodNamespaces,
    descriptors: list[int],
) -> int:
    try:
        pid = forker.fork(request, namespaces, descriptors)
        _write_pid(request.directory, pid)
    except (OSError, SpawnerUnavailable):
        if request.netns_path:
            unpin(request.netns_path)
        raise
    return pid


def _write_pid(directory: str, pid: int) -> None:
    """So that a monitor that hangs can be found and killed: its pid and start time."""
    fd = os.open(f"{directory}/pid", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{pid} {start_time(pid)}".encode())
    finally:
        os.close(fd)


def warm_up() -> None:
    """Does once what every monitor and every init would do for the first time."""
    launch.warm_up()
    plan = ContainerPlan(
        ProcessPlan(args=("true",)), mounts=(MountStep(MountKind.NEW, "/proc", "proc"),)
    )
    decode(ContainerPlan, encode(plan))
    for kind in (MonitorRequest, *REQUESTS.values()):
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
    """Arguments: descriptor of a listening socket, version to answer with, state directory."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    version, state = sys.argv[2], Path(sys.argv[3])
    os.chdir("/")
    os.umask(0o022)
    Path("/proc/self/comm").write_text("podwright-spawn", encoding="ascii")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the daemon is not for its pods
    prctl(Prctl.SET_DUMPABLE, 0)
    holder_fd = make_holder()
    warm_up()
    stage = zygote.Stage(tree.detect(), holder_fd, state / "rehearsal")
    spawner = Spawner(listener, version, stage)
    log(f"spawner {version} serves")
    spawner.serve()
