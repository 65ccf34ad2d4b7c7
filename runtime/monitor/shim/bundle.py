"""Where a shim lives: a mount namespace of its own, with a tmpfs over /run/containerd.

    /run/containerd/
        s/…                      the shim's socket
        containerd.sock.ttrpc    ours, for its events
        runc/…                   what runc writes down, unless configured
        io.containerd.runtime.v2.task/k8s.io/
            <sandbox id>/        where the shim was started: config.json, log (a FIFO), rootfs/pause
            <container id>/      config.json, rootfs (the overlay), shm

To the shim it is containerd's house; on the node it is nowhere. Nobody else can reach the sockets,
and with the last process that is in there all of it is gone. The namespace is a copy of the node's,
so volumes propagate; only what lies under /run/containerd receives and sends nothing. Runs in
children of the monitor.
"""

from __future__ import annotations

import contextlib
import os
import platform
import posixpath
import shutil
import socket
from dataclasses import dataclass

from runtime.linux import fds, mount
from runtime.linux.fds import Socket
from runtime.linux.mount import AT_FDCWD, MountAttr
from runtime.linux.namespace import Clone, setns, unshare
from runtime.monitor.oci.bundle import (
    hide,
    receive_only,
    root,
    settle,
    shared_memory,
    tell,
    write,
)
from runtime.monitor.oci.plan import CONFIG, ROOTFS, SHM
from runtime.monitor.program import execute
from runtime.monitor.shim import pause
from runtime.monitor.shim.plan import EVENTS, NAMESPACE, PLACE, TASKS, ShimPlan, TaskPlan, bundle

PAUSE = "pause"  # the program of the sandbox task, in its root
LOG = "log"  # in the bundle in which a shim is started
_TMPFS = ((b"mode", b"0711"), (b"size", b"67108864"))
_ATTRIBUTES = MountAttr.NOSUID | MountAttr.NODEV
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Around:
    """What the monitor gives to who makes a bundle. mount_ns_fd: the pod's mount namespace;
    namespaces: type -> path of those that are shared."""

    task_id: str
    mount_ns_fd: int
    namespaces: dict[str, str]


@dataclass(frozen=True, slots=True)
class House:
    """What the monitor holds of a shim: its mount namespace, and the tmpfs in it."""

    namespace_fd: int
    place_fd: int

    def close(self) -> None:
        fds.close_all((self.namespace_fd, self.place_fd))


def begin(peer: Socket, plan: ShimPlan, around: Around, outputs: tuple[int, int]) -> None:
    """Builds the house, says so, and becomes the shim's `start`, which leaves the shim behind.

    The word's descriptors: mount namespace, tmpfs, the shim's log, the listener for its events.
    around: of the sandbox task; outputs: stdout, stderr.
    """
    shm_fd = shared_memory(around.mount_ns_fd)
    place_fd = _build(plan.hidden)
    bundle_fd = _directory(place_fd, TASKS, NAMESPACE, around.task_id)
    config = plan.sandbox_document()
    task = _directory(bundle_fd, ROOTFS)
    settle(config, task, None, around.namespaces)
    write(bundle_fd, CONFIG, config)
    _furnish(bundle_fd, shm_fd)
    if plan.sandbox_task:
        _write_program(task, pause.program(platform.machine()))
    os.mkfifo(LOG, 0o600, dir_fd=bundle_fd)
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC  # the shim waits for somebody who reads
    log_fd = os.open(LOG, flags, dir_fd=bundle_fd)
    listener = fds.bind(f"/proc/self/fd/{place_fd}/{EVENTS}", socket.SOCK_STREAM)
    namespace_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    tell(peer, (namespace_fd, place_fd, log_fd, listener.fileno()), {})
    execute(
        plan.command(around.task_id, "start"),
        stdio=(-1, *outputs),
        environment=plan.environment(around.task_id),
        directory=bundle(around.task_id),
    )


def add(peer: Socket, plan: TaskPlan, house: House, around: Around) -> None:
    """Makes the bundle of a container, and says so."""
    root_fd = root(plan.rootfs)
    shm_fd = shared_memory(around.mount_ns_fd)
    setns(house.namespace_fd, Clone.NEWNS)
    bundle_fd = _directory(house.place_fd, TASKS, NAMESPACE, around.task_id)
    os.mkdir(ROOTFS, 0o755, dir_fd=bundle_fd)
    config = plan.document()
    said = settle(config, root_fd, plan.lookup, around.namespaces)
    write(bundle_fd, CONFIG, config)
    mount.move_mount(root_fd, bundle_fd, ROOTFS.encode())
    _furnish(bundle_fd, shm_fd)
    tell(peer, (), said)
    os._exit(0)


def remove(_peer: Socket, house: House, task_id: str) -> None:
    """What is left of a bundle; nothing if there is none."""
    setns(house.namespace_fd, Clone.NEWNS)
    for name in (ROOTFS, SHM):
        hide(f"{bundle(task_id)}/{name}")
    shutil.rmtree(bundle(task_id), ignore_errors=True)
    os._exit(0)


def delete(_peer: Socket, plan: ShimPlan, house: House, ids: tuple[str, str]) -> None:
    """Becomes the shim's `delete`, which removes what a dead shim has left of a task.

    ids: the sandbox's and the task's.
    """
    sandbox_id, task_id = ids
    null = os.open(os.devnull, os.O_WRONLY)  # it prints a message for machines
    setns(house.namespace_fd, Clone.NEWNS)
    execute(
        plan.command(task_id, "delete"),
        stdio=(-1, null, -1),
        environment=plan.environment(sandbox_id),
        directory=bundle(task_id),
    )


def _build(hidden: tuple[str, ...]) -> int:
    """The namespace, which we enter, and the tmpfs in it."""
    unshare(Clone.NEWNS)
    for path in (PLACE, *map(posixpath.dirname, hidden)):
        receive_only(path)
    for path in hidden:
        hide(path)
    place_fd = mount.new_mount(b"tmpfs", _TMPFS, _ATTRIBUTES)
    mount.move_mount(place_fd, AT_FDCWD, os.fsencode(PLACE))
    return place_fd


def _directory(parent: int, *names: str) -> int:
    """Made, as far as it isn't there, and open."""
    for name in names:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o711, dir_fd=parent)
        parent = os.open(name, _DIRECTORY, dir_fd=parent)
    return parent


def _furnish(bundle_fd: int, shm_fd: int) -> None:
    os.mkdir(SHM, 0o755, dir_fd=bundle_fd)
    if shm_fd >= 0:
        mount.move_mount(shm_fd, bundle_fd, SHM.encode())


def _write_program(root_fd: int, program: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(PAUSE, flags, 0o755, dir_fd=root_fd), "wb") as file:
        os.fchmod(file.fileno(), 0o755)
        file.write(program)
