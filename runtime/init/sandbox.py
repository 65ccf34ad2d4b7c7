"""A pod's namespaces: made by the spawner, held by the monitor's membership and descriptors.

The spawner moves into new network, IPC and UTS namespaces, forks the monitor, and goes home: so the
monitor is born in them, and every process that it forks. All stay in the node's mount namespace,
and in its user namespace: where the pod has one of its own (`user_namespace.py`), it owns those
three, and only what becomes a container's process joins it. Beside that there is

    holder      one a node, made by the spawner: a mount namespace with an empty tmpfs as its root
    pod mounts  one a pod: a copy of the holder (one mount to copy, however many the node has)
                with the pod's /dev/shm, as /shm

in which containers' inits build their roots; nobody lives there, descriptors keep them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Protocol

from runtime.errors import InitFailed, RuntimeFault
from runtime.init import user_namespace
from runtime.init.values import UserMap
from runtime.linux import mount
from runtime.linux.fds import close_all
from runtime.linux.mount import AT_FDCWD, MountAttr
from runtime.linux.namespace import Clone, setns, unshare
from runtime.linux.process import Prctl, capset, clone3, close_from, prctl, set_title

SHM = b"/shm"  # the pod's shared memory in the pod's mount namespace
ROOT = b"/root"  # an empty directory in it, to build a root on
NETLINK_ROUTE = 0


class Request(Protocol):
    """What is asked of a sandbox: the fields of runtime.monitor.messages.SandboxRequest."""

    @property
    def hostname(self) -> str: ...
    @property
    def network(self) -> str: ...
    @property
    def ipc(self) -> str: ...
    @property
    def pid(self) -> str: ...
    @property
    def sysctls(self) -> object: ...
    @property
    def shm_bytes(self) -> int: ...
    @property
    def mount_label(self) -> str: ...
    @property
    def user_map(self) -> UserMap | None: ...


@dataclass(slots=True)
class PodNamespaces:
    """Handles on what was built; -1: the pod has none of its own.

    stages: name, start, duration (CLOCK_MONOTONIC, ns).
    """

    mount_fd: int
    netns_fd: int = -1
    netlink_fd: int = -1
    user_fd: int = -1
    stages: list[tuple[str, int, int]] = field(default_factory=list)

    def close(self) -> None:
        """In the spawner, once the monitor has its own."""
        close_all((self.mount_fd, self.netns_fd, self.netlink_fd, self.user_fd))


def make_holder() -> int:
    """Makes the empty mount namespace; answers its descriptor. We end where we were."""
    namespaces = os.open("/proc/self/ns", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    node = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
    unshare(Clone.NEWNS)
    try:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.mount_setattr(root, propagation=mount.Propagation.PRIVATE, recursive=True)
        os.close(root)
        attributes = MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC
        empty = mount.new_mount(b"tmpfs", ((b"mode", b"0755"), (b"size", b"65536")), attributes)
        os.mkdir(SHM[1:], 0o755, dir_fd=empty)
        os.mkdir(ROOT[1:], 0o755, dir_fd=empty)
        mount.move_mount(empty, AT_FDCWD, b"/proc")  # any directory that every node has
        os.fchdir(empty)
        mount.pivot_root(b".", b".")
        mount.umount(b".", lazy=True)
        os.close(empty)
        return os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
    finally:
        setns(node, Clone.NEWNS)
        os.close(node)
        os.close(namespaces)


class Home:
    """The node's namespaces, for the spawner to come back to."""

    def __init__(self) -> None:
        self._fds = [
            (os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind)
            for name, kind in (("net", Clone.NEWNET), ("ipc", Clone.NEWIPC), ("uts", Clone.NEWUTS))
        ]

    def enter(self) -> None:
        for fd, kind in self._fds:
            setns(fd, kind)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a fork that never goes there is to close."""
        return tuple(fd for fd, _ in self._fds)


def build(request: Request, netns_path: str, holder_fd: int) -> PodNamespaces:
    """Moves this process into new namespaces as asked, and makes the rest of a pod.

    netns_path: where to pin the network namespace; empty with the node's network. After an OSError
    or ValueError this process may be anywhere between, and nothing else of the pod is left.
    """
    namespaces = PodNamespaces(mount_fd=-1)
    mark = _marker(namespaces)
    flags = 0
    if request.network == "pod":
        flags |= Clone.NEWNET | Clone.NEWUTS  # the node's network comes with the node's name
    if request.ipc == "pod":
        flags |= Clone.NEWIPC
    if request.user_map is None:
        unshare(flags)
    else:
        namespaces.user_fd = user_namespace.enter(
            request.user_map, flags, lambda: _set_sysctls(request)
        )
    mark("unshare namespaces")
    if request.network == "pod":
        try:
            socket.sethostname(request.hostname)
            namespaces.netns_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            namespaces.netlink_fd = _netlink_socket()
            pin(netns_path)
        except OSError:
            namespaces.close()
            raise
    mark("pin network namespace")
    try:
        if request.user_map is None:
            _set_sysctls(request)
        if request.ipc == "pod":
            namespaces.mount_fd = _pod_mounts(holder_fd, request)
        else:
            namespaces.mount_fd = os.dup(holder_fd)
        mark("mount shared memory")
    except (OSError, ValueError, RuntimeFault):
        namespaces.close()
        if request.network == "pod":
            unpin(netns_path)
        raise
    return namespaces


def pin(path: str) -> None:
    """Makes the network namespace of this process findable at `path`, for plugins and people."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        # Not open_tree: the clone of a mount of nsfs needs Linux 6.17, mount(2) always had it.
        mount.mount(b"/proc/self/ns/net", os.fsencode(path), b"", 4096, b"")  # MS_BIND
    except OSError:
        os.unlink(path)
        raise


def unpin(path: str) -> None:
    """Takes the pin away. Idempotent; a namespace that is still used lives on without it."""
    with contextlib.suppress(FileNotFoundError):
        with contextlib.suppress(OSError):  # EINVAL: not a mount point (any more)
            mount.umount(os.fsencode(path), lazy=True)
        os.unlink(path)


def _marker(namespaces: PodNamespaces) -> Marker:
    previous = time.monotonic_ns()

    def mark(name: str) -> None:
        nonlocal previous
        now = time.monotonic_ns()
        namespaces.stages.append((name, previous, now - previous))
        previous = now

    return mark


class Marker(Protocol):
    def __call__(self, name: str) -> None: ...


def _netlink_socket() -> int:
    """Opened in the pod's namespace, it stays there wherever it is used: the daemon wires by it."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
    return opened.detach()


def _pod_mounts(holder_fd: int, request: Request) -> int:
    """A mount namespace like the holder, with the pod's shared memory at SHM."""
    namespaces = os.open("/proc/self/ns", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    node = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
    attributes = MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC
    parameters = [(b"mode", b"1777"), (b"size", b"%d" % request.shm_bytes)]
    parameters += mount.labelled(request.mount_label)
    user_map = request.user_map
    if user_map is not None:
        parameters += [(b"uid", b"%d" % user_map.uid), (b"gid", b"%d" % user_map.gid)]
    shm = mount.new_mount(b"tmpfs", tuple(parameters), attributes)
    try:
        setns(holder_fd, Clone.NEWNS)
        unshare(Clone.NEWNS)
        mount.move_mount(shm, AT_FDCWD, SHM)
        return os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
    finally:
        setns(node, Clone.NEWNS)
        os.close(shm)
        os.close(node)
        os.close(namespaces)


def _set_sysctls(request: Request) -> None:
    sysctls = request.sysctls
    assert isinstance(sysctls, dict)
    for name, value in sysctls.items():
        path = sysctl_path(name)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            text = f"{name} can't be set to {value[:80]!r}"
            raise InitFailed("sysctl", error.errno or 0, text) from error


_SYSCTLS_OF_NAMESPACES = ("net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


def sysctl_path(name: str) -> str:
    """The file of a sysctl that belongs to the pod's namespaces. ValueError for any other."""
    dotted = name.replace("/", ".")
    if not dotted.startswith(_SYSCTLS_OF_NAMESPACES) or "" in dotted.split("."):
        allowed = ", ".join(f"{prefix}*" for prefix in _SYSCTLS_OF_NAMESPACES)
        raise ValueError(f"sysctl {name!r} belongs to the node, not to a pod; allowed: {allowed}")
    # With slashes as separators a dot belongs to a name: net/ipv4/conf/eth0.100/forwarding.
    return "/proc/sys/" + (name if "/" in name else name.replace(".", "/"))


def start_reaper(mount_ns_fd: int, user_ns_fd: int = -1, label: str = "") -> tuple[int, int]:
    """The shared pid namespace, and a pidfd of its first process, which does nothing but reap.

    mount_ns_fd: the pod's mount namespace, of which it gets a copy; user_ns_fd: the pod's user
    namespace; it lives in there; label: SELinux's, for it to be as the pod's other processes are,
    where the policy lets us change ours without an execve. When we return it has given up all that
    a container could want.
    """
    settled, ours = os.pipe2(os.O_CLOEXEC)
    pid, pidfd = clone3(Clone.NEWPID)
    if pid == 0:
        _reap_forever(mount_ns_fd, user_ns_fd, label)
    os.close(ours)
    os.read(settled, 1)  # until it has closed all that it has
    os.close(settled)
    return os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC), pidfd


def _reap_forever(mount_ns_fd: int, user_ns_fd: int, label: str) -> None:
    """Process 1 of a pod that shares its pid namespace. The kernel reaps for SIG_IGN.

    It handles no signal, so that none from inside reaches it: with it all of the pod would end.
    Every container sees it, and one with SYS_PTRACE may enter it: so its root is an empty directory
    that nobody can change, and it may do nothing.
    """
    set_title(b"podwright-reaper")
    current = os.open("/proc/self/attr/current", os.O_WRONLY | os.O_CLOEXEC) if label else -1
    setns(mount_ns_fd, Clone.NEWNS)
    unshare(Clone.NEWNS)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mount.mount_setattr(root, attributes=int(MountAttr.RDONLY), recursive=True)
    if user_ns_fd >= 0:
        setns(user_ns_fd, Clone.NEWUSER)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    prctl(Prctl.SET_NO_NEW_PRIVS, 1)
    capset(0, 0, 0)
    prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if label:  # last: from now on we may hardly do anything
        with contextlib.suppress(OSError):
            os.write(current, label.encode())
    close_from(0)  # the daemon must see the monitor's end by its sockets
    while True:
        signal.pause()
