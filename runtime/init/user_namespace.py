"""A pod's user namespace, made by the spawner through a child; and what must be made inside of it.

spawner                                child
   │ ── clone3(NEWUSER) ─────────────────▶ │ nobody in there yet: no id is mapped
   │ uid_map, gid_map                      │
   │ ── mapped ──────────────────────────▶ │ becomes its root, makes the other namespaces, so
   │                                       │ that they are owned by it, sets the pod's sysctls
   │ ◀── ok + descriptors, or failed ───── │
   │ ── SIGKILL ─────────────────────────▶ │
   │ enters them, but for the user namespace, from which there would be no way back
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import cast

from runtime.errors import InitFailed
from runtime.init.values import UserMap
from runtime.linux import fds
from runtime.linux.fds import Socket
from runtime.linux.namespace import Clone, setns, unshare
from runtime.linux.process import clone3, kill_and_wait

_KINDS = (("net", Clone.NEWNET), ("ipc", Clone.NEWIPC), ("uts", Clone.NEWUTS))
_STEP = "user namespace"


def enter(user_map: UserMap, flags: int, prepare: Callable[[], None]) -> int:
    """Makes a user namespace, and moves this process into new ones (flags: NEWNET …) owned by it.

    prepare: called in all of them, as root of the user namespace. Answers the user namespace's
    descriptor. Raises InitFailed; this process may be anywhere between then.
    """
    ours, theirs = fds.pair()
    try:
        pid, pidfd = clone3(Clone.NEWUSER)
    except OSError as error:
        ours.close()
        theirs.close()
        text = "the kernel refuses to make one"
        if error.errno in (errno.ENOSPC, errno.EUSERS):
            text = "there are as many as the sysctl user.max_user_namespaces allows"
        raise InitFailed(_STEP, error.errno or 0, text) from error
    if pid == 0:
        ours.close()
        _live(theirs, flags, prepare)
    theirs.close()
    try:
        _write_map(pid, "uid_map", user_map.uid, user_map.uids)
        _write_map(pid, "gid_map", user_map.gid, user_map.gids)
        user_fd, *others = _ask(ours)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it failed, and has ended
            kill_and_wait(pidfd)
        os.close(pidfd)
        ours.close()
    try:
        for fd in others:
            setns(fd, 0)
    except OSError:
        os.close(user_fd)
        raise
    finally:
        fds.close_all(others)
    return user_fd


def _write_map(pid: int, name: str, first: int, size: int) -> None:
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0 %d %d" % (first, size))
    except OSError as error:
        text = f"{size} ids from {first} on can't be written to {name}: the node must have them all"
        raise InitFailed(_STEP, error.errno or 0, text) from error
    finally:
        os.close(fd)


def _ask(child: Socket) -> list[int]:
    """The descriptors that the child has made, the user namespace's first."""
    child.send(b"mapped")
    received = fds.receive(child)
    if received is None:
        raise InitFailed(_STEP, 0, "the process that makes it was killed")
    message, descriptors = received
    if "failed" in message:
        fds.close_all(descriptors)
        step, number, text = cast(tuple[str, int, str], message["failed"])
        raise InitFailed(step, number, text)
    return descriptors


def _live(peer: Socket, flags: int, prepare: Callable[[], None]) -> None:
    """The child's life. It ends by SIGKILL, or with the spawner; it never returns."""
    try:
        if peer.recv(16):
            _make(peer, flags, prepare)
            peer.recv(16)
    except BaseException as error:  # noqa: BLE001 - a fork must never return into its parent's code
        _tell(peer, error)
    os._exit(1)


def _make(peer: Socket, flags: int, prepare: Callable[[], None]) -> None:
    os.setgroups(())
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    unshare(flags)  # only now: what is made belongs to who makes it, the root of /dev/mqueue say
    prepare()
    names = ["user", *(name for name, flag in _KINDS if flags & flag)]
    made = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names]
    fds.send(peer, {"ok": len(made)}, made)


def _tell(peer: Socket, error: BaseException) -> None:
    number = error.errno or 0 if isinstance(error, OSError) else 0
    failure: tuple[str, int, str] = (_STEP, number, str(error))
    if isinstance(error, InitFailed):
        failure = (error.step, error.errno, error.text)
    fds.send(peer, {"failed": failure})
