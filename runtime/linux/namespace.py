"""Namespaces: leave one, join one. See namespaces(7)."""

from __future__ import annotations

import enum

from runtime.linux.libc import Integer, declare


class Clone(enum.IntFlag):
    """CLONE_* of sched.h, those that name a namespace and those that clone3 takes."""

    NEWTIME = 0x00000080
    PIDFD = 0x00001000
    PARENT = 0x00008000
    NEWNS = 0x00020000
    NEWCGROUP = 0x02000000
    NEWUTS = 0x04000000
    NEWIPC = 0x08000000
    NEWUSER = 0x10000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000
    INTO_CGROUP = 0x200000000


_unshare = declare("unshare", Integer)
_setns = declare("setns", Integer, Integer)


def unshare(flags: int) -> None:
    """Moves this process into new namespaces (NEWPID: its future children)."""
    _unshare(flags)


def setns(fd: int, flags: int) -> None:
    """Joins namespaces. fd: of /proc/PID/ns/X (flags: its type, or 0) or a pidfd (flags: which)."""
    _setns(fd, flags)
