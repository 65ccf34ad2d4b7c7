"""The process that monitors are forked from. It does nothing else, so that they share its memory.

    spawner                           zygote            spare
       │ ── fork + a socket's end ───▶ │ ──── fork ────▶ │ waits
       │ ◀───────────────────── pid ── │                 │
       │ ── request, descriptors (by that socket) ─────▶ │ is a monitor from now on

The fork is asked for when the last pod's request has been answered: the next one need not wait for
it. A page that the parent writes after a fork is the child's own from then on. The spawner decodes,
builds and answers, and every monitor forked from it would keep what it wrote meanwhile: 400 KB. The
zygote receives a packet, forks and answers; nothing in between.
"""

from __future__ import annotations

import gc
import os
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from runtime.cgroup.tree import Hierarchy
from runtime.errors import SpawnerUnavailable
from runtime.init import launch
from runtime.init import rehearsal as init_rehearsal
from runtime.init.sandbox import PodNamespaces
from runtime.linux import fds
from runtime.linux.fds import Socket
from runtime.linux.namespace import setns
from runtime.linux.process import reset_signals
from runtime.monitor import main as monitor
from runtime.monitor import rehearsal as monitor_rehearsal
from runtime.monitor.messages import MonitorRequest
from runtime.monitor.pod import Facts
from runtime.spawner import holes

_NAMESPACES = ("net", "ipc", "uts")
_FORK = b"fork"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the rehearsals are played. scratch: a directory to make and remove."""

    hierarchy: Hierarchy
    holder_fd: int
    scratch: Path


class Zygote:
    """The spawner's handle on its zygote, which ends with the spawner."""

    def __init__(self, stage: Stage, listener_fd: int) -> None:
        """Forks it, as this process is now. listener_fd: the spawner's, closed in there."""
        self._spare: Socket | None = None
        self._peer, theirs = fds.pair()
        if os.fork() == 0:
            self._peer.close()
            os.close(listener_fd)
            _warm_up(stage)
            _serve(theirs, stage.hierarchy)
        theirs.close()

    def prepare(self) -> Socket:
        """Asks for a spare, if there is none: by what is answered it hears what it is to be."""
        if self._spare is None:
            self._spare, theirs = fds.pair()
            try:
                fds.send_packet(self._peer, _FORK, (theirs.fileno(),))
            except ConnectionError as error:
                _end(str(error))
            theirs.close()
        return self._spare

    def fork(
        self, request: MonitorRequest, namespaces: PodNamespaces, sockets: Sequence[int]
    ) -> int:
        """Has a monitor in the namespaces in which this process is; answers its pid.

        sockets: listening and connected, see monitor.main.run. Raises SpawnerUnavailable.
        """
        handles = [
            os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _NAMESPACES
        ]
        sandbox = request.sandbox
        words = (
            sandbox.sandbox_id,
            request.directory,
            request.netns_path,
            sandbox.cgroup_parent,
            sandbox.pid,
            sandbox.process_label,
        )
        try:
            if namespaces.user_fd >= 0:
                handles.append(os.dup(namespaces.user_fd))
            descriptors = (*handles, namespaces.mount_fd, *sockets)
            return self._hand_over("\0".join(words).encode(), descriptors)
        finally:
            fds.close_all(handles)

    def _hand_over(self, packet: bytes, descriptors: Sequence[int]) -> int:
        """To the spare; if that has been killed while it waited, to one that is forked now."""
        waited = self._spare is not None
        spare = self.prepare()
        self._spare = None
        answer = b""
        try:
            answer = self._peer.recv(64)
            if answer.isdigit():
                fds.send_packet(spare, packet, descriptors)
                return int(answer)
        except ConnectionError as error:
            fds.log(str(error))
        finally:
            spare.close()
        if not answer:
            _end("it has hung up")
        if waited:
            return self._hand_over(packet, descriptors)
        raise SpawnerUnavailable(f"no monitor could be forked: {answer.decode()}")


def _end(reason: str) -> NoReturn:
    """Without the zygote the spawner is of no use, and the daemon starts another."""
    fds.log(f"the zygote is gone: {reason}")
    os._exit(1)


def _warm_up(stage: Stage) -> None:
    """Plays what forks will do: what is written now is not written by each of them."""
    failures = []
    try:
        monitor_rehearsal.rehearse(stage.hierarchy, stage.scratch)
    except (OSError, ValueError) as error:
        failures.append(str(error))
    try:
        failures.append(init_rehearsal.rehearse(stage.holder_fd, launch.warm_up()))
    except OSError as error:  # lost in another mount namespace
        fds.log(f"the zygote can't go on: {error}")
        os._exit(1)
    for failure in filter(None, failures):
        fds.log(f"a rehearsal failed, starts will be slower: {failure}")
    os.close(stage.holder_fd)
    reset_signals(())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors are reaped by the kernel
    gc.collect()
    gc.freeze()  # the collector never writes to a page that forks share
    gc.disable()
    holes.fill()


def _serve(peer: Socket, hierarchy: Hierarchy) -> None:
    """Receives, forks, answers, until the spawner is gone. Never returns."""
    while True:
        packet, descriptors = _receive(peer)
        if not packet:
            os._exit(0)
        try:
            pid = os.fork()
        except OSError as error:
            peer.send(str(error).encode())
        else:
            if pid == 0:
                peer.close()
                _wait_for_pod(fds.adopt(*descriptors), hierarchy)
            peer.send(b"%d" % pid)
        for fd in descriptors:
            os.close(fd)


def _receive(peer: Socket) -> tuple[bytes, Sequence[int]]:
    packet, ancillary, _, _ = peer.recvmsg(fds.INLINE_BYTES, fds.ANCILLARY_BYTES, fds.CLOEXEC)
    rights = ancillary[0][2] if ancillary else b""
    return packet, struct.unpack(f"{len(rights) // 4}i", rights)


def _wait_for_pod(peer: Socket, hierarchy: Hierarchy) -> None:
    """The life of a spare, and of the monitor that it becomes. Never returns."""
    packet, descriptors = _receive(peer)
    if not packet:  # the spawner is gone
        os._exit(0)
    peer.close()
    _become_monitor(packet, descriptors, hierarchy)


def _become_monitor(packet: bytes, descriptors: Sequence[int], hierarchy: Hierarchy) -> None:
    net, ipc, uts, *user, mount_fd, listener, connection = descriptors
    status = 1
    try:
        for fd in (net, ipc, uts):
            setns(fd, 0)
            os.close(fd)
        sandbox_id, directory, netns_path, cgroup_parent, pid, label = packet.decode().split("\0")
        facts = Facts(
            sandbox_id,
            directory,
            netns_path,
            cgroup_parent,
            shared_pids=pid == "pod",
            mount_fd=mount_fd,
        )
        facts.reaper_label = label
        if user:
            (facts.user_fd,) = user
        monitor.run(facts, hierarchy, fds.adopt(listener), fds.adopt(connection))
        status = 0
    except BaseException as error:  # noqa: BLE001 - a fork must never return into its parent's loop
        fds.log(f"a monitor died: {error!r}")
    os._exit(status)
