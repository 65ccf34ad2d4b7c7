"""The process that monitors are forked from. It does nothing else, so that they share its memory.

    spawner ── request, descriptors ──▶ zygote ──fork──▶ monitor
            ◀───────────────────── pid ──┘

A page that the parent writes after a fork is the child's own from then on. The spawner decodes,
builds and answers, and every monitor forked from it would keep what it wrote meanwhile: 400 KB. The
zygote receives a packet, forks and answers; nothing in between.
"""

from __future__ import annotations

import gc
import os
import signal
import struct
from collections.abc import Sequence
from pathlib import Path

from runtime.cgroup.tree import Hierarchy
from runtime.errors import SpawnerUnavailable
from runtime.linux import fds
from runtime.linux.fds import Socket
from runtime.linux.namespace import setns
from runtime.linux.process import reset_signals
from runtime.monitor import main as monitor
from runtime.monitor.messages import MonitorRequest
from runtime.monitor.pod import Facts
from runtime.monitor.rehearsal import rehearse

_NAMESPACES = ("net", "ipc", "uts")


class Zygote:
    """The spawner's handle on its zygote, which ends with the spawner."""

    def __init__(self, hierarchy: Hierarchy, scratch: Path, listener_fd: int) -> None:
        """Forks it, as this process is now. listener_fd: the spawner's, closed in there."""
        self._peer, theirs = fds.pair()
        if os.fork() == 0:
            self._peer.close()
            os.close(listener_fd)
            _warm_up(hierarchy, scratch)
            _serve(theirs, hierarchy)
        theirs.close()

    def fork(self, request: MonitorRequest, mount_fd: int, sockets: Sequence[int]) -> int:
        """Forks a monitor into the namespaces in which this process is; answers its pid.

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
        )
        try:
            fds.send_packet(self._peer, "\0".join(words).encode(), (*handles, mount_fd, *sockets))
        finally:
            fds.close_all(handles)
        answer = self._peer.recv(64)
        if not answer.isdigit():
            raise SpawnerUnavailable(f"no monitor could be forked: {answer.decode() or 'no word'}")
        return int(answer)


def _warm_up(hierarchy: Hierarchy, scratch: Path) -> None:
    """What is not forked often need not be fast; what is written now is not written by forks."""
    try:
        rehearse(hierarchy, scratch)
    except (OSError, ValueError) as error:
        fds.log(f"the rehearsal failed, monitors will be larger: {error}")
    reset_signals(())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors are reaped by the kernel
    gc.collect()
    gc.freeze()  # the collector never writes to a page that forks share
    gc.disable()


def _serve(peer: Socket, hierarchy: Hierarchy) -> None:
    """Receives, forks, answers, until the spawner is gone. Never returns."""
    while True:
        packet, ancillary, _, _ = peer.recvmsg(fds.INLINE_BYTES, fds.ANCILLARY_BYTES, fds.CLOEXEC)
        if not packet:
            os._exit(0)
        rights = ancillary[0][2]
        descriptors = struct.unpack(f"{len(rights) // 4}i", rights)
        try:
            pid = os.fork()
        except OSError as error:
            peer.send(str(error).encode())
        else:
            if pid == 0:
                peer.close()
                _become_monitor(packet, descriptors, hierarchy)
            peer.send(b"%d" % pid)
        for fd in descriptors:
            os.close(fd)


def _become_monitor(packet: bytes, descriptors: Sequence[int], hierarchy: Hierarchy) -> None:
    *namespaces, mount_fd, listener, connection = descriptors
    status = 1
    try:
        for fd in namespaces:
            setns(fd, 0)
            os.close(fd)
        sandbox_id, directory, netns_path, cgroup_parent, pid = packet.decode().split("\0")
        facts = Facts(
            sandbox_id,
            directory,
            netns_path,
            cgroup_parent,
            shared_pids=pid == "pod",
            mount_fd=mount_fd,
        )
        monitor.run(facts, hierarchy, fds.adopt(listener), fds.adopt(connection))
        status = 0
    except BaseException as error:  # noqa: BLE001 - a fork must never return into its parent's loop
        fds.log(f"a monitor died: {error!r}")
    os._exit(status)
