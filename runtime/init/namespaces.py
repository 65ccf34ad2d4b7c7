"""Joining a running container; and, for who wants others than the pod's, namespaces of his own."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct

from runtime.init import credentials
from runtime.init.channel import EXIT_FAILED
from runtime.init.context import Context
from runtime.init.values import NamespaceStep, UserMap
from runtime.linux import mount
from runtime.linux.mount import AT_FDCWD, MountAttr
from runtime.linux.namespace import Clone, setns, unshare
from runtime.linux.process import Prctl, clone3, prctl

_USUAL = int(MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC)  # of the pod's procfs
_CONTAINERS = Clone.NEWNS | Clone.NEWCGROUP | Clone.NEWIPC | Clone.NEWUTS | Clone.NEWNET
_IFREQ = struct.Struct("16sh14x")  # netdevice(7)
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def leave_the_pods(context: Context) -> None:
    """Into those that the container has instead; and sysctls of what it has, or shares."""
    for step in context.plan.namespaces:
        if step.path:
            _enter(step)
        else:
            unshare(step.flag)
            if step.flag == Clone.NEWNET:
                _raise_loopback()
    for path, value in context.plan.sysctls:
        try:
            set_sysctl(path, value)
        except PermissionError:
            if context.process.user_map is None:
                raise
            _set_as_theirs(context.process.user_map, path, value)


def _set_as_theirs(user_map: UserMap, path: str, value: str) -> None:
    """Some belong to the root of the user namespace, and not even the node's root may write."""
    os.setegid(user_map.gid)
    os.seteuid(user_map.uid)
    try:
        set_sysctl(path, value)
    finally:
        os.seteuid(0)
        os.setegid(0)
        prctl(Prctl.SET_DUMPABLE, 0)  # which a change of who we are may have set


def _enter(step: NamespaceStep) -> None:
    """Whatever is at the path, nobody is waited for: it may be a pipe."""
    where = f'the namespace "{step.path}"'
    try:
        fd = os.open(step.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        nodes = bool(step.node) and os.path.samestat(os.fstat(fd), os.stat(step.node))
        if not nodes:
            setns(fd, step.flag)
    except OSError as error:
        raise OSError(error.errno, where) from None
    if nodes:
        raise OSError(errno.EPERM, f"{where} is the node's, in which no pod sets sysctls")
    os.close(fd)


def _raise_loopback() -> None:
    """As every pod's network has it."""
    peer = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(peer.fileno(), _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))
    peer.close()


def set_sysctl(path: str, value: str) -> None:
    """path: in the node's /proc; of the namespaces that this process is in."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.write(fd, value.encode())
    except OSError as error:
        name = path.removeprefix("/proc/sys/")
        raise OSError(error.errno, f"the sysctl {name} can't be set to {value[:80]!r}") from None
    os.close(fd)


def join(context: Context) -> None:
    """All namespaces at once, of the process that a pidfd names: no pid is reused under us."""
    if context.target is None:
        raise OSError(errno.EINVAL, "no container to join")
    try:
        setns(context.target.pidfd, _CONTAINERS)
    except ProcessLookupError:
        raise OSError(errno.ESRCH, "the container has exited") from None
    aim(context)
    credentials.make_files_theirs(context)


def aim(context: Context) -> None:
    """Chooses the pid namespace for whom we fork, if we do: see `be_born`."""
    if not context.surroundings.sheltered:
        return
    try:
        setns(context.surroundings.pid_ns_fd, Clone.NEWPID)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise OSError(errno.ESRCH, "the container has exited") from None


def procfs(context: Context, parameters: tuple[tuple[bytes, bytes], ...], attributes: int) -> int:
    """A detached procfs of the pid namespace in which we are not born yet.

    Before Linux 6.17 it is always ours that a new one shows; then it is a clone of the one that the
    pod's first process has mounted, in whose mount namespace, or a copy of it, we are.
    """
    try:
        fd = context.surroundings.pid_ns_fd
        return mount.new_mount(b"proc", parameters, attributes, pid_ns_fd=fd)
    except OSError as error:
        if error.errno != errno.EINVAL or parameters:
            raise
    clone, context.proc_fd = context.proc_fd, -1
    if clone < 0:
        clone = mount.clone_tree(AT_FDCWD, context.proc)
    mount.mount_setattr(clone, attributes=attributes, clear=_USUAL & ~attributes)
    return clone


def be_born(context: Context) -> None:
    """Comes into the sight of the container, or of others in the pod, by a last fork.

    Whoever is in that pid namespace may trace us, if it has SYS_PTRACE, or open /proc/PID/root and
    /proc/PID/fd. So only now, as there is nothing of the node left in us, nor a privilege that is
    not its own.
    """
    if not context.surroundings.sheltered:
        return
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid, _ = _fork()
    if pid:
        context.report.born(pid)
        os.write(tell, b"1")
        os._exit(0)
    os.close(tell)
    if not os.read(told, 1):  # nobody knows of us
        os._exit(EXIT_FAILED)
    os.close(told)
    os.setsid()


def _fork() -> tuple[int, int]:
    try:
        return clone3(Clone.PARENT)
    except OSError as error:
        if error.errno == errno.ENOMEM:  # its pid namespace has no first process any more
            raise OSError(errno.ESRCH, "the container has exited") from None
        raise
