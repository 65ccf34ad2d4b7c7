"""Processes: clone3, prctl, capabilities, descriptors. See clone(2), prctl(2), capabilities(7)."""

from __future__ import annotations

import ctypes
import enum
import os
import select
import signal
import struct
from collections.abc import Iterable, Sequence

from runtime.linux.libc import (
    Integer,
    Pointer,
    Size,
    Text,
    Unsigned,
    UnsignedLong,
    declare,
    syscall,
)
from runtime.linux.namespace import Clone


class Prctl(enum.IntEnum):
    """PR_* of linux/prctl.h."""

    SET_PDEATHSIG = 1
    SET_DUMPABLE = 4
    SET_KEEPCAPS = 8
    CAPBSET_DROP = 24
    SET_CHILD_SUBREAPER = 36
    SET_NO_NEW_PRIVS = 38
    CAP_AMBIENT = 47


_prctl = declare("prctl", Integer, UnsignedLong, UnsignedLong, UnsignedLong, UnsignedLong)
_clone3 = syscall("clone3", 435, Pointer, Size)
_close_range = syscall("close_range", 436, Unsigned, Unsigned, Unsigned)
_capset = declare("capset", Pointer, Pointer)
_signal = declare("signal", Integer, Pointer)
_sigprocmask = declare("sigprocmask", Integer, Text, Pointer)
_setfsuid = declare("setfsuid", Unsigned)
_setfsgid = declare("setfsgid", Unsigned)
_signalfd = declare("signalfd", Integer, Text, Integer)

CLOSE_RANGE_CLOEXEC = 4
_CAPABILITY_VERSION_3 = 0x20080522
_SIG_BLOCK = 0
_SFD_CLOEXEC, _SFD_NONBLOCK = 0o2000000, 0o4000
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134}
_SIGACTION_BYTES, _SIGSET_BYTES = 32, 8
_NO_SIGNALS = bytes(128)  # an empty sigset_t
_CLONE_ARGS = struct.Struct("11Q")
_CLONE_BYTES = _CLONE_ARGS.size
_CLONE_PIDFD, _CLONE_INTO_CGROUP = int(Clone.PIDFD), int(Clone.INTO_CGROUP)
_CLONE_PARENT = int(Clone.PARENT)
_SIGCHLD = int(signal.SIGCHLD)
# Made once: a monitor forks for each container and command, and never two at a time.
_clone_buffer = ctypes.create_string_buffer(_CLONE_BYTES)
_pidfd = ctypes.c_int(-1)
_CLONE_ADDRESS, _PIDFD_ADDRESS = ctypes.addressof(_clone_buffer), ctypes.addressof(_pidfd)


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """prctl(2) with up to two arguments, the rest 0."""
    return _prctl(option, argument, second, 0, 0)


def clone3(flags: int, *, cgroup_fd: int = -1) -> tuple[int, int]:
    """Forks with namespaces. Answers (pid, pidfd) in the parent, (0, -1) in the child.

    cgroup_fd: a cgroup v2 directory in which the child starts (CLONE_INTO_CGROUP, Linux 5.7),
    -1: the parent's. With Clone.PARENT the child is our parent's, whom its end is told to.
    Only for a single-threaded process: no fork handler of Python or libc runs.
    """
    flags |= _CLONE_PIDFD
    if cgroup_fd >= 0:
        flags |= _CLONE_INTO_CGROUP
    end = 0 if flags & _CLONE_PARENT else _SIGCHLD  # our own is inherited, another can't be given
    _CLONE_ARGS.pack_into(
        _clone_buffer, 0, flags, _PIDFD_ADDRESS, 0, 0, end, 0, 0, 0, 0, 0, max(cgroup_fd, 0)
    )
    pid = _clone3(_CLONE_ADDRESS, _CLONE_BYTES)
    return (pid, _pidfd.value) if pid else (0, -1)


def reset_signals(numbers: Iterable[int]) -> None:
    """Default dispositions for these signals, and none blocked.

    By libc and not by the module signal, which spends hundreds of µs on enumerations.
    """
    for number in numbers:
        _signal(number, None)
    _sigprocmask(signal.SIG_SETMASK, _NO_SIGNALS, None)


def signal_fd(number: int) -> int:
    """Blocks a signal; answers a descriptor that becomes readable when it is pending.

    A child inherits the block: `reset_signals` takes it away. See signalfd(2).
    """
    mask = (1 << (number - 1)).to_bytes(len(_NO_SIGNALS), "little")
    _signal(number, None)
    _sigprocmask(_SIG_BLOCK, mask, None)
    return _signalfd(-1, mask, _SFD_CLOEXEC | _SFD_NONBLOCK)


def drop_bounding(numbers: Sequence[int]) -> None:
    """Takes these capabilities out of the bounding set."""
    count = len(numbers)
    drops, zeros = (int(Prctl.CAPBSET_DROP),) * count, (0,) * count
    for _ in map(_prctl, drops, numbers, zeros, zeros, zeros):
        pass


def set_title(title: bytes) -> None:
    """What `ps` shows of this process: its name (15 bytes of it) and its command line."""
    with open("/proc/self/comm", "wb", buffering=0) as file:
        file.write(title[:15])
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: see proc_pid_stat(5)
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title, min(len(title), end - start - 1))


def forget_threads() -> None:
    """Default dispositions for libc's own two signals, which its posix_spawn leaves ignored.

    By system call, since libc lets nobody near them. On other machines they stay as they are.
    """
    number = _RT_SIGACTION.get(os.uname().machine)
    if number is not None:
        rt_sigaction = syscall("rt_sigaction", number, Integer, Text, Pointer, Size)
        for internal in (32, 33):
            rt_sigaction(internal, bytes(_SIGACTION_BYTES), None, _SIGSET_BYTES)


def start_time(pid: int) -> str:
    """When the process started, in clock ticks since boot: with the pid, its unmistakable name."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).rpartition(b")")[2].split()[19].decode("ascii")
    finally:
        os.close(fd)


def kill_and_wait(pidfd: int, *, patience: float = 10.0) -> bool:
    """SIGKILL, then waits until the process is no more; False if it still is after `patience` s."""
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(patience * 1000))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Sets this process's capabilities; each argument is a mask with bit N for capability N."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    masks = []
    for shift in (0, 32):
        masks += [(mask >> shift) & 0xFFFFFFFF for mask in (effective, permitted, inheritable)]
    body = struct.pack("6I", *masks)
    _capset(
        ctypes.cast(ctypes.c_char_p(header), ctypes.c_void_p),
        ctypes.cast(ctypes.c_char_p(body), ctypes.c_void_p),
    )


def make_files_as(uid: int, gid: int) -> None:
    """Whatever this process makes from now on belongs to them. See setfsuid(2).

    The kernel takes the capabilities away that have to do with files: `capset` gives them back.
    """
    _setfsgid(gid)
    _setfsuid(uid)


def close_from(first: int, *, cloexec: bool = False) -> None:
    """Closes every descriptor from `first` up, or marks them all close-on-exec."""
    _close_range(first, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC if cloexec else 0)
