"""The child that becomes CRIU, in the middle of a container that waits for its processes.

    build    the container's root and mounts, as init does, in a copy of the pod's mount namespace
    return   to a copy of the node's, where all of it is attached to the checkpoint's directory
    confine  the images: what the processes may be is the plan's to say
    execute  CRIU, in the container's cgroup: what it restores is born there

CRIU runs with the node's files, of which the processes that it makes see nothing: it moves them
into a mount namespace of their own, of the mounts that it was told of.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from runtime.checkpoint import addresses, confine, criu, mounts, places, shm
from runtime.checkpoint.confine import Bounds, Images
from runtime.checkpoint.files import MayOpen, Refused
from runtime.init import (
    capabilities,
    credentials,
    devices,
    execute,
    identity,
    idmap,
    rootfs,
    security,
)
from runtime.init import mounts as init_mounts
from runtime.init.channel import EXIT_FAILED, Reporter
from runtime.init.context import Context, Surroundings
from runtime.init.launch import warm_up
from runtime.init.values import ContainerPlan
from runtime.linux import fds, mount, resolve
from runtime.linux.fds import Socket
from runtime.linux.mount import AT_FDCWD
from runtime.linux.namespace import Clone, setns, unshare
from runtime.monitor import program
from runtime.monitor.criu.container import Order

ROOT, TREE = "root", "tree"  # directories in that of the checkpoint; the first is there
_THEIRS = b"/tmp"  # any directory to which the way is open for everybody
_RESOURCES = 16  # RLIM_NLIMITS
_INFINITY = 2**64 - 1


def _reset(_context: Context) -> None:
    """What `Program` has not done: modes are given exactly from here on."""
    os.umask(0)
    credentials.leave_keyring()


Step = tuple[str, Callable[[Context], None]]
_BUILD: tuple[Step, ...] = (
    ("reset", _reset),
    ("oom score", credentials.set_oom_score),
    ("root file system", rootfs.make_root),
    ("identity", identity.settle),
    ("mount sources", init_mounts.open_sources),
    ("null device", security.open_null),
    ("mount namespace", rootfs.enter),
    ("mounts", init_mounts.attach),
    ("devices", devices.make_nodes),
    ("terminal", devices.make_console),
    ("console", devices.mount_console),
    ("working directory", execute.make_working_directory),
    ("cgroup", credentials.join_cgroup),
    ("cgroup namespace", credentials.leave_cgroup_namespace),
    ("cgroup mounts", init_mounts.attach_cgroups),
    ("protected paths", security.protect),
    ("read-only mounts", rootfs.finish_readonly),
)


def become(
    peer: Socket,
    plan: ContainerPlan,
    surroundings: Surroundings,
    order: Order,
    build: Callable[[tuple[Step, ...]], tuple[Step, ...]],
) -> None:
    """Never returns. Says {"type": "console"} with a terminal's master, {"type": "restoring",
    "identity", "stages", "warnings"}, or failed.

    build: gives the steps that are done, from those that are usual.
    """
    step = "plan"
    report = Reporter(peer)
    try:
        node = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        context = Context(plan, surroundings, warm_up(), report)
        for step, act in build(_sequence(order)):
            began = time.monotonic_ns()
            act(context)
            context.stages.append((step, began, time.monotonic_ns() - began))
        step = "restore"
        _restore(peer, context, node, order)
    except BaseException as error:  # noqa: BLE001 - it must not unwind into the monitor
        report.failed(step, error)
    os._exit(EXIT_FAILED)


def _sequence(order: Order) -> tuple[Step, ...]:
    """What is done before CRIU comes; the pod's memory is filled when it is counted as ours."""
    if not order.shm:
        return _BUILD
    source = os.open(order.shm, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def fill(context: Context) -> None:
        target = shm.open_at(context.shm)
        if target < 0:
            context.warn("the pod has the node's /dev/shm, which the checkpoint's does not get to")
            return
        shm.copy(source, target, shm.outside(context.process.user_map))

    after = 1 + next(index for index, (name, _) in enumerate(_BUILD) if name == "cgroup")
    return (*_BUILD[:after], ("shared memory", fill), *_BUILD[after:])


def _restore(peer: Socket, context: Context, node: int, order: Order) -> None:
    _own_stdio(context, order.stdio)
    directory = _attach(context, node, order.directory)
    place = f"{directory}/{TREE}"
    images = Images(f"{directory}/{criu.IMAGES}")
    may_be = bounds(context, ipc=order.first)
    outside = confine.confine(images, may_be, _may_open(context, place), places.within(place))
    addresses.settle(images, addresses.here)
    external = _write_mounts(images, place)
    os.umask(0o022)
    powerless = context.user_ns_fd >= 0
    root = f"{directory}/{ROOT}"
    command = criu.restore(order.criu, directory, root, external, powerless=powerless)
    inherited = [(key, order.stdio[number]) for number, key in outside.pipes.items()]
    inherited.append((criu.PIDS, context.surroundings.pid_ns_fd))
    if outside.terminal:
        inherited.append((outside.terminal, context.console_fd))
    keep: list[int] = []
    for key, fd in inherited:
        if fd >= 0:
            command += ["--inherit-fd", f"fd[{3 + len(keep)}]:{key}"]
            keep.append(fd)
    who = context.identity
    said = (who.uid, who.gid, who.groups, who.home)
    words = {"identity": said, "stages": context.stages, "warnings": context.warnings}
    fds.send(peer, {"type": "restoring", **words})
    program.execute(command, keep=keep)


def _own_stdio(context: Context, stdio: tuple[int, int, int]) -> None:
    """CRIU opens the pipes again, which are to be somebody's of whom it knows in there."""
    users, who = context.process.user_map, context.identity
    for fd in stdio:
        if users is not None and fd >= 0:
            os.fchown(fd, users.uid + who.uid, users.gid + who.gid)


def _attach(context: Context, node: int, directory: str) -> str:
    """All that was built becomes a tree in a copy of the node's mount namespace; answers where the
    checkpoint's directory is in there.

    Beside it lies the root alone: with the tree, CRIU may take along what is mounted in that, our
    own procfs beneath the one that it makes.
    """
    tree = mount.clone_tree(context.root_fd, recursive=True)
    root = mount.clone_tree(context.root_fd)
    setns(node, Clone.NEWNS)
    os.mkdir(f"{directory}/{TREE}", 0o700)
    theirs = -1
    if context.user_ns_fd >= 0:
        theirs = idmap.clone(directory, context.user_ns_fd)
        setns(context.user_ns_fd, Clone.NEWUSER)
        os.setgroups(())
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    unshare(Clone.NEWNS)
    slash = os.open(b"/", os.O_PATH | os.O_CLOEXEC)
    mount.mount_setattr(slash, propagation=mount.Propagation.PRIVATE, recursive=True)
    os.close(slash)
    if theirs >= 0:
        mount.move_mount(theirs, AT_FDCWD, _THEIRS)
        directory = os.fsdecode(_THEIRS)
    mount.move_mount(tree, AT_FDCWD, os.fsencode(f"{directory}/{TREE}"))
    mount.move_mount(root, AT_FDCWD, os.fsencode(f"{directory}/{ROOT}"))
    return directory


def bounds(context: Context, *, ipc: bool) -> Bounds:
    """What the container's processes may be, from its plan. ipc: if they may bring the pod's."""
    process = context.process
    attainable = capabilities.attainable(process.capabilities, context.held)
    return Bounds(
        identity=context.identity,
        bounding=attainable.bounding,
        permitted=attainable.permitted | attainable.ambient,
        no_new_privileges=process.no_new_privileges,
        limits=_limits(context),
        seccomp=process.seccomp,
        seccomp_flags=process.seccomp_flags,
        label=process.apparmor_profile,
        pids=_pids(context.surroundings),
        terminal=process.terminal,
        ipc=ipc and context.plan.own_ipc_namespace,
    )


def _pids(surroundings: Surroundings) -> str:
    if surroundings.own_pid_namespace:
        return "own"
    return "pod" if surroundings.pid_ns_fd >= 0 else "node"


def _limits(context: Context) -> tuple[tuple[int, int], ...]:
    """The hard limits: the plan's, or those that every container inherits."""
    found = {number: resource.getrlimit(number)[1] for number in range(_RESOURCES)}
    found |= {limit.resource: limit.hard for limit in context.process.rlimits}
    return tuple((number, _INFINITY if top < 0 else top) for number, top in found.items())


def _may_open(context: Context, place: str) -> MayOpen:
    """Whether the container's user may open one of its files; as that user, so by the kernel."""

    def may_open(path: str, flags: int) -> bool:
        who = context.identity
        root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        groups = os.getgroups()
        os.setgroups(who.groups)
        os.setegid(who.gid)
        os.seteuid(who.uid)
        try:
            fd = resolve.find_in_root(root, os.fsencode(path))
            if fd < 0:
                return True  # it is not there: CRIU will say so
            access = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK}
            wanted = access.get(flags & os.O_ACCMODE, os.R_OK | os.W_OK)
            if flags & resolve.O_PATH:
                wanted = os.F_OK
            executable = os.access(f"/proc/self/fd/{fd}", os.X_OK, effective_ids=True)
            may = os.access(f"/proc/self/fd/{fd}", wanted, effective_ids=True)
            os.close(fd)
            return may or (executable and wanted == os.R_OK)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
            os.close(root)

    return may_open


def _write_mounts(images: Images, place: str) -> tuple[str, ...]:
    """The mounts of the container as CRIU wants them; what it is told beside that."""
    names = [name for name in images.names() if name.startswith("mountpoints-")]
    if len(names) != 1:
        raise Refused(f"{len(names)} mount namespaces, where a container has one")
    with open("/proc/self/mountinfo", "rb") as file:
        found = mounts.visible(criu.parse_mounts(file), place)
    made = mounts.image(found, place, mounts.old_numbers(images.load(names[0])))
    images.save(names[0], made.data)
    return made.external
