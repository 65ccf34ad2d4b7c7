"""The process that monitors are forked from. It does nothing else, so that they share its memory.

    spawner ── request, descriptors ──▶ zygote ──fork──▶ monitor
            ◀───────────────────── pid ──┘

A page that the parent writes after a fork is the child's own from then on. The spawner decodes,
builds and answers, and every monitor forked from it would keep what it wrote meanwhile: 400 KB. The
zygote receives a packet, forks and answers; nothing in between.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.cgroup.tree import Hierarchy
from runtime.errors import SpawnerUnavailable
from runtime.init import launch
from runtime.init import rehearsal as init_rehearsal
from runtime.init.sandbox import PodNamespaces
from runtime.linux import fds
from runtime.linux.fds import Socket
from runtime.linux.namespace import Clone
from runtime.linux.process import clone3, reset_signals
from runtime.monitor import rehearsal as monitor_rehearsal
from runtime.monitor.main import NAMESPACES, Monitor, packet
from runtime.monitor.messages import MonitorRequest
from runtime.spawner import dense

_PARENT = int(Clone.PARENT)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the rehearsals are played. scratch: a directory to make and remove."""

    hierarchy: Hierarchy
    holder_fd: int
    scratch: Path


class Zygote:
    """The spawner's handle on its zygote, which ends with the spawner."""

    def __init__(self, stage: Stage, others: Sequence[int]) -> None:
        """Forks it, as this process is now. others: descriptors of the spawner's, closed there."""
        _rehearse(stage)
        _tidy()
        self._peer, theirs = fds.pair()
        if os.fork() == 0:
            fds.close_all((self._peer.detach(), stage.holder_fd, *others))
            gc.disable()
            _serve(theirs, Monitor(stage.hierarchy))
        theirs.close()

    def fork(
        self, request: MonitorRequest, namespaces: PodNamespaces, sockets: Sequence[int]
    ) -> int:
        """Forks a monitor into the namespaces in which this process is; answers its pid.

        sockets: listening and connected, see monitor.main.run. Raises SpawnerUnavailable.
        """
        handles = [
            os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES
        ]
        answer = b""
        try:
            if namespaces.user_fd >= 0:
                handles.append(os.dup(namespaces.user_fd))
            descriptors = (*handles, namespaces.mount_fd, *sockets)
            fds.send_packet(self._peer, packet(request), descriptors)
            answer = self._peer.recv(64)
        except ConnectionError as error:
            fds.log(str(error))
        finally:
            fds.close_all(handles)
        if not answer:  # it is dead; without it we are of no use, and the daemon starts another
            fds.log("the zygote is gone")
            os._exit(1)
        if not answer.isdigit():
            raise SpawnerUnavailable(f"no monitor could be forked: {answer.decode()}")
        return int(answer)


def _tidy() -> None:
    """Memory is now as monitors will find it."""
    gc.collect()
    dense.fill_gaps()
    gc.freeze()  # the collector never writes to a page that forks share


def _rehearse(stage: Stage) -> None:
    """Does what forks will do: what is written now is not written by each of them."""
    failures = []
    play = functools.partial(monitor_rehearsal.rehearse, stage.hierarchy, stage.scratch)
    try:
        codes = dense.called(lambda: play(1))
        dense.fill_gaps()
        dense.gather(codes)
        play()
    except (OSError, ValueError) as error:
        failures.append(str(error))
    try:
        failures.append(init_rehearsal.rehearse(stage.holder_fd, launch.warm_up()))
    except OSError as error:  # lost in another mount namespace
        fds.log(f"the spawner can't go on: {error}")
        os._exit(1)
    for failure in filter(None, failures):
        fds.log(f"a rehearsal failed, starts will be slower: {failure}")
    reset_signals(())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors are reaped by the kernel


def _serve(peer: Socket, monitor: Monitor) -> None:
    """Receives, forks, answers, until the spawner is gone. Never returns.

    The monitors are the spawner's children: it ignores their ends, which they could not inherit.
    """
    while True:
        words, ancillary, _, _ = peer.recvmsg(fds.INLINE_BYTES, fds.ANCILLARY_BYTES, fds.CLOEXEC)
        if not words:
            os._exit(0)
        descriptors = fds.descriptors(ancillary[0][2])
        try:
            pid, pidfd = clone3(_PARENT)  # and none of what Python does after a fork
        except OSError as error:
            peer.send(str(error).encode())
        else:
            if pid == 0:
                peer.close()
                _become_monitor(words, descriptors, monitor)
            os.close(pidfd)
            peer.send(b"%d" % pid)
        for fd in descriptors:
            os.close(fd)


def _become_monitor(words: bytes, descriptors: Sequence[int], monitor: Monitor) -> None:
    status = 1
    try:
        monitor.enter(words, descriptors)
        monitor.run()
        status = 0
    except BaseException as error:  # noqa: BLE001 - a fork must never return into its parent's loop
        fds.log(f"a monitor died: {error!r}")
    os._exit(status)
