"""The steps, run for practice by the process that all inits descend from.

Python 3.11 rewrites a function's bytecode for what it meets in its first calls, and fills caches. A
fork that runs a function for the first time does all that in memory it must copy first. So the
spawner runs what can be undone, on a plan that touches all of it: in a mount namespace of its own,
which it leaves again. Every start then needs a tenth less CPU time and page faults.
"""

from __future__ import annotations

import json
import os
import stat

from runtime.codec import decode, encode
from runtime.init import capabilities, execute, steps
from runtime.init.channel import Reporter
from runtime.init.context import Context, Ourselves, Surroundings
from runtime.init.values import (
    Attributes,
    CapabilityMasks,
    ContainerPlan,
    Dev,
    MountKind,
    MountStep,
    Node,
    ProcessPlan,
    RootPlan,
)
from runtime.linux import mount
from runtime.linux.fds import pair, parse
from runtime.linux.mount import MountAttr, Propagation
from runtime.linux.namespace import Clone, setns, unshare
from runtime.spec import UserLookup

_ROUNDS = 10  # a function is rewritten at its eighth call
_UNTIL = "pivot"  # the last step that can be undone
_NOT = frozenset(("reset", "oom score", "terminal", "console", "cgroup namespace", "cgroup mounts"))
_OURS = "/proc/self/ns/mnt"
_STAGE = "/sys"  # any directory that every node has, and that no step looks for on the node
_SAFE = int(MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC)


def rehearse(mount_ns_fd: int, ourselves: Ourselves) -> str:
    """Only for a single-threaded process. Answers "", or what failed: then starts are slower.

    mount_ns_fd: the holder (see sandbox.py). Leaves the working directory "/" and nothing else
    behind. OSError: we could not go back to where we were; such a process is of no use.
    """
    home = os.open(_OURS, os.O_RDONLY | os.O_CLOEXEC)
    mask = os.umask(0)
    unshare(Clone.NEWNS)
    stage = os.open(_OURS, os.O_RDONLY | os.O_CLOEXEC)
    failure = ""
    for _ in range(_ROUNDS):
        before = set(os.listdir("/proc/self/fd"))
        try:
            _rehearse_once(mount_ns_fd, ourselves)
        except OSError as error:
            failure = str(error)
        setns(stage, Clone.NEWNS)
        _close_new(before)
        if failure:
            break
    setns(home, Clone.NEWNS)
    os.umask(mask)
    os.close(stage)
    os.close(home)
    return failure


def _rehearse_once(mount_ns_fd: int, ourselves: Ourselves) -> None:
    ours, theirs = pair()
    report = Reporter(theirs)
    plan = decode(ContainerPlan, parse(json.dumps(encode(_plan())).encode()))
    context = Context(plan, Surroundings(mount_ns_fd=mount_ns_fd), ourselves, report)
    for name, step in steps.CONTAINER:
        if name not in _NOT:
            step(context)
        if name == _UNTIL:
            break
    execute.enter_working_directory(context)
    capabilities.attainable(context.process.capabilities, ourselves.held)
    execute.search(context)
    execute.tell_ready(context)
    ours.close()
    theirs.close()


def _plan() -> ContainerPlan:
    """A container on a scratch tmpfs, with a mount of each kind."""
    slash = os.open("/", os.O_PATH | os.O_CLOEXEC)
    mount.mount_setattr(slash, propagation=int(Propagation.PRIVATE), recursive=True)
    scratch = mount.new_mount(b"tmpfs", ((b"mode", b"755"),))
    mount.move_mount(scratch, mount.AT_FDCWD, _STAGE.encode())
    base = _STAGE
    for name in ("lower", "upper", "work", "lower/etc", "lower/proc", "lower/sys"):
        os.mkdir(f"{base}/{name}")
    for name, text in (("passwd", b"root:x:0:0::/:\n"), ("group", b"root:x:0:root\n")):
        fd = os.open(f"{base}/lower/etc/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        os.write(fd, text)
        os.close(fd)
    return ContainerPlan(
        process=ProcessPlan(
            args=("true",),
            env=("PATH=/bin", "A=b"),
            cwd="/srv",
            lookup=UserLookup("root"),
            capabilities=CapabilityMasks(1, 1, 1),
        ),
        root=RootPlan((f"{base}/lower",), f"{base}/upper", f"{base}/work", readonly=True),
        mounts=(
            MountStep(MountKind.NEW, "/proc", "proc", attributes=_ALL, real_directory=True),
            MountStep(MountKind.DEV, "/dev", "tmpfs", parameters=(("mode", "755"),)),
            MountStep(MountKind.NEW, "/dev/pts", "devpts", parameters=(("mode", "620"),)),
            MountStep(MountKind.NEW, "/dev/mqueue", "mqueue", attributes=_ALL),
            MountStep(MountKind.SHM, "/dev/shm", attributes=_ALL),  # noqa: S108 - the container's
            MountStep(MountKind.NEW, "/sys", "sysfs", attributes=_ALL, real_directory=True),
            _bind("/dev/null", "/etc/hosts"),
            _bind("/dev/null", "/etc/hostname"),
            _bind("/dev", "/a/b"),
        ),
        dev=Dev(
            nodes=tuple(
                Node(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(1, minor))
                for name, minor in (("null", 3), ("zero", 5), ("full", 7))
            ),
            directories=("pts", "mqueue", "shm"),
            links=(("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0")),
        ),
        cgroup_namespace=False,
        masked_paths=("/proc/acpi", "/proc/keys", "/proc/timer_list", "/absent", "/sys/firmware"),
        readonly_paths=("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"),
    )


_ALL = Attributes(_SAFE)


def _bind(source: str, destination: str) -> MountStep:
    return MountStep(
        MountKind.BIND,
        destination,
        source,
        recursive=True,
        attributes=Attributes(int(MountAttr.RDONLY)),
        propagation=int(Propagation.PRIVATE),
        propagation_recursive=True,
    )


def _close_new(before: set[str]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if name not in before:
            try:
                os.close(int(name))
            except OSError:  # the directory just listed
                continue
