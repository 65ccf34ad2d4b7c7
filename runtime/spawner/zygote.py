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

import functools
import gc
import os
import signal
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
from runtime.linux.namespace import Clone
from runtime.linux.process import clone3, reset_signals
from runtime.monitor import rehearsal as monitor_rehearsal
from runtime.monitor.main import NAMESPACES, Monitor, packet
from runtime.monitor.messages import MonitorRequest
from runtime.spawner import dense

_PARENT = int(Clone.PARENT)
_FORK = b"fork"


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
        self._spare: Socket | None = None
        _rehearse(stage)
        _tidy()
        self._peer, theirs = fds.pair()
        if os.fork() == 0:
            fds.close_all((self._peer.detach(), stage.holder_fd, *others))
            gc.disable()
            _serve(theirs, Monitor(stage.hierarchy))
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
            os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES
        ]
        try:
            if namespaces.user_fd >= 0:
                handles.append(os.dup(namespaces.user_fd))
            descriptors = (*handles, namespaces.mount_fd, *sockets)
            return self._hand_over(packet(request), descriptors)
        finally:
            fds.close_all(handles)

    def _hand_over(self, words: bytes, descriptors: Sequence[int]) -> int:
        """To the spare; if that has been killed while it waited, to one that is forked now."""
        waited = self._spare is not None
        spare = self.prepare()
        self._spare = None
        answer = b""
        try:
            answer = self._peer.recv(64)
            if answer.isdigit():
                fds.send_packet(spare, words, descriptors)
                return int(answer)
        except ConnectionError as error:
            fds.log(str(error))
        finally:
            spare.close()
        if not answer:
            _end("it has hung up")
        if waited:
            return self._hand_over(words, descriptors)
        raise SpawnerUnavailable(f"no monitor could be forked: {answer.decode()}")


def _end(reason: str) -> NoReturn:
    """Without the zygote the spawner is of no use, and the daemon starts another."""
    fds.log(f"the zygote is gone: {reason}")
    os._exit(1)


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
        packet, descriptors = _receive(peer)
        if not packet:
            os._exit(0)
        try:
            pid, pidfd = clone3(_PARENT)  # and none of what Python does after a fork
        except OSError as error:
            peer.send(str(error).encode())
        else:
            if pid == 0:
                peer.close()
                _wait_for_pod(fds.adopt(*descriptors), monitor)
            os.close(pidfd)
            peer.send(b"%d" % pid)
        for fd in descriptors:
            os.close(fd)


def _receive(peer: Socket) -> tuple[bytes, Sequence[int]]:
    try:
        words, ancillary, _, _ = peer.recvmsg(fds.INLINE_BYTES, fds.ANCILLARY_BYTES, fds.CLOEXEC)
    except ConnectionError:  # it ended with something of ours unread
        return b"", ()
    return words, fds.descriptors(ancillary[0][2]) if ancillary else ()


def _wait_for_pod(peer: Socket, monitor: Monitor) -> None:
    """The life of a spare, and of the monitor that it becomes. Never returns."""
    words, descriptors = _receive(peer)
    if not words:  # the spawner is gone
        os._exit(0)
    peer.close()
    _become_monitor(words, descriptors, monitor)


def _become_monitor(words: bytes, descriptors: Sequence[int], monitor: Monitor) -> None:
    status = 1
    try:
        monitor.enter(words, descriptors)
        monitor.run()
        status = 0
    except BaseException as error:  # noqa: BLE001 - a fork must never return into its parent's loop
        fds.log(f"a monitor died: {error!r}")
    os._exit(status)
