"""The bundle of a container: a tmpfs in a mount namespace of its own, and nowhere else.

    <place>/              a tmpfs, over an empty directory of the node
        config.json       process.json of each command while it is being started
        rootfs/           the overlay
        shm/              the pod's shared memory
        pid, log, console what the binary writes, and where it hands over the terminal

The namespace is a copy of the node's, held by a descriptor of the monitor and by runs of the
binary: with the last of them all of it is gone, and no crash leaves a mount. Mounts that the node
makes arrive here; ours stay here. Runs in children of the monitor.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import posixpath
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from runtime.init import capabilities, identity, rootfs
from runtime.init.launch import warm_up
from runtime.init.namespace_plan import namespace_of
from runtime.init.namespaces import set_sysctl
from runtime.init.sandbox import sysctl_path
from runtime.init.values import Identity, RootPlan
from runtime.linux import fds, mount
from runtime.linux.fds import Socket
from runtime.linux.mount import AT_FDCWD, MountAttr, Propagation
from runtime.linux.namespace import Clone, setns, unshare
from runtime.monitor.oci import plan as documents
from runtime.monitor.oci.plan import CONFIG, CREATE, ROOTFS, SHM, Json, OciPlan
from runtime.monitor.program import execute
from runtime.spec import UserLookup

if TYPE_CHECKING:
    from runtime.monitor.pod import Pod

_SHARED = {"network": "net", "ipc": "ipc", "uts": "uts"}
SHARED_MEMORY, PROC = b"/shm", b"/proc"  # in the pod's mount namespace: see init/sandbox.py
_TMPFS = ((b"mode", b"0711"), (b"size", b"16777216"))
_PID_DIGITS = 9
_ATTRIBUTES = MountAttr.NOSUID | MountAttr.NODEV


@dataclass(frozen=True, slots=True)
class Around:
    """What the monitor gives to the run that makes a container.

    stdio: the container's ends; mount_ns_fd: the pod's mount namespace; namespaces: type -> path
    of those that are shared; tasks: files by which to join the container's cgroup first.
    """

    container_id: str
    stdio: tuple[int, int, int]
    mount_ns_fd: int
    namespaces: dict[str, str]
    tasks: tuple[int, ...]


def create(peer: Socket, plan: OciPlan, around: Around) -> None:
    """Builds the bundle, says so on `peer` with its descriptors, and becomes the binary's create.

    The word: {"type": "bundle", "identity", "warnings"}; descriptors: mount namespace, bundle, and
    with a terminal a listening socket for the console.
    """
    config = plan.document()
    root_fd = root(plan.rootfs)
    shm_fd = of_pod(around.mount_ns_fd)
    bundle_fd = assemble(plan.place, plan.hidden, root_fd, shm_fd)
    for fd in around.tasks:
        os.write(fd, b"0")
    said = settle(config, root_fd, plan.lookup, around.namespaces)
    write(bundle_fd, CONFIG, config)
    terminal = bool(_process(config).get("terminal"))
    listener = _listen(bundle_fd, CREATE) if terminal else -1
    namespace_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    tell(peer, (namespace_fd, bundle_fd, listener), said)
    words = ["--bundle", plan.place, *_run_files(plan, CREATE, terminal=terminal)]
    command = plan.command(f"{CREATE}.log", "create", *words, around.container_id)
    execute(command, stdio=(-1, -1, -1) if terminal else around.stdio)


@dataclass(frozen=True, slots=True)
class Inside:
    """A container as its monitor knows it: where its bundle is, and who its process is."""

    container_id: str
    namespace_fd: int
    bundle_fd: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class Wanted:
    """A command to run. name: of its files in the bundle."""

    name: str
    args: tuple[str, ...]
    terminal: bool
    stdio: tuple[int, int, int]


def run_command(peer: Socket, plan: OciPlan, inside: Inside, wanted: Wanted) -> None:
    """Becomes the binary's exec. With a terminal, a listening socket is told first."""
    process = documents.command_process(plan.document(), wanted.args, terminal=wanted.terminal)
    documents.become(process, inside.identity)
    held = warm_up().held
    documents.limit(process, capabilities.names(held.permitted & held.bounding))
    name = wanted.name
    write(inside.bundle_fd, f"{name}.json", process)
    if wanted.terminal:
        tell(peer, (_listen(inside.bundle_fd, name),), {})
    words = ["--process", f"{plan.place}/{name}.json", "--detach"]
    words += _run_files(plan, name, terminal=wanted.terminal)
    command = plan.command(f"{name}.log", "exec", *words, inside.container_id)
    stdio = (-1, -1, -1) if wanted.terminal else wanted.stdio
    setns(inside.namespace_fd, Clone.NEWNS)
    execute(command, stdio=stdio)


def namespaces(pod: Pod, pid_namespace: str) -> dict[str, str]:
    """Paths of those that a pod's containers share, by the specification's names: the monitor is in
    them. pid_namespace: as `Start` says."""
    own = f"/proc/{os.getpid()}"
    paths = {kind: f"{own}/ns/{name}" for kind, name in _SHARED.items()}
    if pid_namespace == "pod":
        paths["pid"] = f"{own}/fd/{pod.facts.pid_fd}"
    elif pid_namespace not in ("own", "node"):
        paths["pid"] = f"/proc/{pod.container(pid_namespace).pid}/ns/pid"
    return paths


def read(bundle_fd: int, name: str, *, most: int = 65536) -> bytes:
    """The end of a file in the bundle; b"" if there is none, or something else than a file."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not hold us up
    try:
        fd = os.open(name, flags, dir_fd=bundle_fd)
    except OSError:
        return b""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return b""
        return os.pread(fd, most, max(status.st_size - most, 0))
    finally:
        os.close(fd)


def told_pid(bundle_fd: int, name: str) -> int:
    """The pid that a run has written down; 0: none that could be one."""
    told = read(bundle_fd, f"{name}.pid").strip()
    return int(told) if told.isdigit() and len(told) <= _PID_DIGITS else 0


def forget(bundle_fd: int, name: str) -> None:
    """Removes the files of one run."""
    for suffix in ("json", "pid", "log", "console"):
        with contextlib.suppress(OSError):  # it is not there, or nothing that we have made
            os.unlink(f"{name}.{suffix}", dir_fd=bundle_fd)


def take_console(listener_fd: int) -> int:
    """The terminal's master that a binary, which has ended, has sent; -1: none."""
    listener = socket.socket(fileno=listener_fd)
    try:
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        peer, _ = listener.accept()
        with peer:
            peer.setblocking(False)  # noqa: FBT003 - see above
            _, descriptors, _, _ = socket.recv_fds(peer, 4096, 1)
    except OSError:
        return -1
    finally:
        listener.close()
    for fd in descriptors:
        os.set_inheritable(fd, False)  # noqa: FBT003 - see above
    return descriptors[0] if descriptors else -1


def settle(
    config: Json, root_fd: int, lookup: UserLookup | None, namespaces: dict[str, str]
) -> Json:
    """Makes config.json final; answers the words about it for the monitor."""
    _set_sysctls(documents.linux(config))
    who = documents.identity_of(config)
    if lookup is not None:
        who = identity.find(lookup, identity.Accounts(root_fd))
    held = warm_up().held
    names = capabilities.names(held.permitted & held.bounding)
    hostname = os.uname().nodename
    warnings = documents.complete(config, who, namespaces=namespaces, hostname=hostname, held=names)
    return {"identity": (who.uid, who.gid, who.groups, who.home), "warnings": warnings}


def _set_sysctls(linux: Json) -> None:
    """Those of the pod's namespaces, in which we are, as the binary will be: runc takes the network
    that it is in for the node's. Others are of namespaces that the binary makes, or joins."""
    listed = cast("list[Json]", linux.get("namespaces", []))
    others = {str(item["type"]) for item in listed if item.get("path")}
    wanted = cast("dict[str, str]", linux.get("sysctl") or {})
    for name in [name for name in wanted if namespace_of(name) not in others]:
        set_sysctl(sysctl_path(name), wanted.pop(name))


def root(plan: RootPlan) -> int:
    """A detached mount of the root file system, of directories in the node's namespace."""
    return rootfs.overlay(plan) if plan.lower else rootfs.bind(plan.path)


def of_pod(mount_ns_fd: int, path: bytes = SHARED_MEMORY) -> int:
    """A clone of what is mounted in the pod's mount namespace; -1: nothing, it has the node's."""
    node = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(mount_ns_fd, Clone.NEWNS)
        return mount.clone_tree(AT_FDCWD, path)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: nothing is mounted there
            raise
        return -1
    finally:
        setns(node, Clone.NEWNS)
        os.close(node)


def assemble(place: str, hidden: Iterable[str], root_fd: int, shm_fd: int) -> int:
    """Moves this process into a copy of the node's mounts with the bundle; its descriptor."""
    unshare(Clone.NEWNS)
    for path in (place, *map(posixpath.dirname, hidden)):
        receive_only(path)
    for path in hidden:
        hide(path)
    bundle_fd = mount.new_mount(b"tmpfs", _TMPFS, _ATTRIBUTES)
    for name in (ROOTFS, SHM):
        os.mkdir(name, 0o755, dir_fd=bundle_fd)
    mount.move_mount(bundle_fd, AT_FDCWD, os.fsencode(place))
    mount.move_mount(root_fd, bundle_fd, ROOTFS.encode())
    if shm_fd >= 0:
        mount.move_mount(shm_fd, bundle_fd, SHM.encode())
    return bundle_fd


def receive_only(path: str) -> None:
    """Makes the mount on which a path lies receive what the node mounts, and send nothing back."""
    while True:
        try:
            mount.mount(b"", os.fsencode(path), b"", int(Propagation.SLAVE), b"")
        except OSError as error:
            if error.errno != errno.EINVAL or path == "/":
                raise
            path = posixpath.dirname(path)  # no mount point, so it lies on that of a parent
        else:
            return


def hide(path: str) -> None:
    """Takes a mount out of our namespace, if it is there."""
    try:
        mount.umount(os.fsencode(path), lazy=True)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # EINVAL: nothing is mounted there
            raise


def write(bundle_fd: int, name: str, document: Json) -> None:
    """A new file in the bundle."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=bundle_fd), "w", encoding="utf-8") as file:
        json.dump(document, file)


def _listen(bundle_fd: int, name: str) -> int:
    listener = fds.bind(f"/proc/self/fd/{bundle_fd}/{name}.console", socket.SOCK_STREAM)
    return listener.detach()


def _run_files(plan: OciPlan, name: str, *, terminal: bool) -> list[str]:
    words = ["--pid-file", f"{plan.place}/{name}.pid"]
    return [*words, "--console-socket", f"{plan.place}/{name}.console"] if terminal else words


def tell(peer: Socket, descriptors: tuple[int, ...], words: Json) -> None:
    """Says to the monitor that the bundle is there. descriptors: -1 for one that isn't."""
    owned = tuple(fd for fd in descriptors if fd >= 0)
    fds.send(peer, {"type": "bundle", **words}, owned)


def _process(config: Json) -> Json:
    process = config["process"]
    assert isinstance(process, dict)
    return process
