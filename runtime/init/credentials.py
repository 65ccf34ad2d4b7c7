"""From root of the node to what the plan allows. Steps of `steps.py`, in the order of this file."""

from __future__ import annotations

import errno
import os
import resource
import signal

from runtime.init import capabilities, devices
from runtime.init.channel import LISTENER
from runtime.init.context import Context
from runtime.init.values import SchedulingPlan
from runtime.linux import keyring, scheduling, seccomp
from runtime.linux.namespace import Clone, setns, unshare
from runtime.linux.process import Prctl, capset, make_files_as, prctl, reset_signals


def reset(context: Context) -> None:
    """Nothing of the monitor's is handed on: signals, session, keys."""
    reset_signals(context.ourselves.ignored)
    os.setsid()
    os.umask(0)  # modes are given exactly from here on; the process gets its own at the end
    if (context.process.user_map is None) != (context.user_ns_fd < 0):
        raise OSError(errno.EINVAL, "pod and container do not agree on a user namespace")
    leave_keyring()


def leave_keyring() -> None:
    """A session keyring of one's own; the node's is not for containers."""
    try:
        keyring.new_session_keyring()
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise


def set_oom_score(context: Context) -> None:
    """oom_score_adj, as far as we may: below our own needs CAP_SYS_RESOURCE."""
    score = context.process.oom_score_adj
    if score is None:
        return
    try:
        _write_oom_score(score)
    except PermissionError:
        with open("/proc/self/oom_score_adj", "rb") as file:
            context.warn(
                f"oom_score_adj is {int(file.read())}, not {score}: "
                "lowering it needs CAP_SYS_RESOURCE, which podwright was started without"
            )


def _write_oom_score(score: int) -> None:
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % score)
    finally:
        os.close(fd)


def join_cgroup(context: Context) -> None:
    """Moves this process by writing into the `tasks` files that we inherited. See cgroups(7)."""
    try:
        for fd in context.surroundings.tasks:
            os.write(fd, b"0")
    except OSError as error:
        raise OSError(error.errno, "can't move into the container's cgroup") from None
    if context.ourselves.all_cpus:
        os.sched_setaffinity(0, context.ourselves.all_cpus)


def make_files_theirs(context: Context) -> None:
    """What is made in the container from here on, mount points say, belongs to its root.

    In the node's user namespace, and as capable as before: nobody else could mount all that.
    """
    user_map = context.process.user_map
    if user_map is not None:
        ours = context.ourselves.held
        make_files_as(user_map.uid, user_map.gid)
        capset(ours.effective, ours.permitted, ours.inheritable)


def leave_cgroup_namespace(context: Context) -> None:
    """Where we are now becomes the root of what the container sees."""
    if context.plan.cgroup_namespace:
        unshare(Clone.NEWCGROUP)


def set_limits(context: Context) -> None:
    """rlimits: last of all that needs privilege, for they would hamper ourselves."""
    for limit in context.process.rlimits:
        try:
            resource.setrlimit(limit.resource, (limit.soft, limit.hard))
        except (OSError, ValueError):
            _, ours = resource.getrlimit(limit.resource)
            raise OSError(
                errno.EPERM,
                f"{limit.name}: hard limit {limit.hard} is above podwright's own, {ours}, and "
                "raising it needs CAP_SYS_RESOURCE",
            ) from None
    if context.process.scheduling is not None:
        _schedule(context.process.scheduling)


def _schedule(plan: SchedulingPlan) -> None:
    """In the container's cgroup, whose memory nodes and real time count."""
    what = "process.ioPriority"
    try:
        if plan.io_priority is not None:
            scheduling.set_io_priority(plan.io_priority)
        what = "linux.memoryPolicy"
        if plan.memory_mode is not None:
            scheduling.set_memory_policy(plan.memory_mode, plan.memory_nodes)
        what = "process.scheduler"
        if plan.scheduler:
            scheduling.set_scheduler(plan.scheduler)
    except OSError as error:
        raise OSError(error.errno, f"the kernel refuses the {what}") from None


def enter_user_namespace(context: Context) -> None:
    """Into the pod's; a container's mounts are copied once more, into a namespace which that owns.

    The copy locks them (mount_namespaces(7)): root in there, even with CAP_SYS_ADMIN, neither takes
    a mount of ours away to see what it covers, nor makes one writable that we made read-only.
    """
    if context.user_ns_fd < 0:
        return
    become_root_of(context.user_ns_fd)
    os.close(context.user_ns_fd)
    if context.target is None:
        unshare(Clone.NEWNS)
        _reopen_null(context)
    leave_keyring()  # for one that belongs to somebody of that namespace


def become_root_of(user_ns_fd: int) -> None:
    """Into a user namespace, of which this process has all capabilities from here on."""
    setns(user_ns_fd, Clone.NEWUSER)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _reopen_null(context: Context) -> None:
    """Where stdio is the null device it was on a mount of before the copy, which nobody can name
    any more: CRIU could not write such a file down."""
    absent = [number for number, fd in enumerate(context.surroundings.stdio) if fd < 0]
    if context.process.terminal or not absent:
        return
    context.dev_fd = -1
    context.root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    null = devices.open_null(context)
    for number in absent:
        os.dup2(null, number)
    os.close(null)
    os.close(context.root_fd)


def become(context: Context) -> None:
    """User, groups, capabilities."""
    process, identity = context.process, context.identity
    ours = context.held
    final = capabilities.attainable(process.capabilities, ours)
    missing = process.capabilities.permitted & ~final.permitted
    if missing:
        names = ", ".join(capabilities.names(missing))
        context.warn(f"podwright itself was started without {names}")
    capabilities.drop_bounding(final.bounding, ours)
    if process.no_new_privileges:
        prctl(Prctl.SET_NO_NEW_PRIVS, 1)
    prctl(Prctl.SET_KEEPCAPS, 1)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    prctl(Prctl.SET_KEEPCAPS, 0)
    capabilities.apply(final, extra=_extra(context))
    os.umask(process.umask)


def bind_to_monitor(context: Context) -> None:
    """What neither a fork hands on, nor a change of who we are leaves."""
    if context.surroundings.subreaper:
        prctl(Prctl.SET_CHILD_SUBREAPER, 1)
    prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)


def _extra(context: Context) -> int:
    """Without no_new_privs only CAP_SYS_ADMIN may install a filter: kept until that is done."""
    process = context.process
    return capabilities.SYS_ADMIN if process.seccomp and not process.no_new_privileges else 0


def filter_system_calls(context: Context) -> None:
    """The last thing before execve: from here on the profile must allow whatever we still do."""
    process = context.process
    if not process.seccomp:
        return
    fd = seccomp.install(process.seccomp, process.seccomp_flags)
    if process.seccomp_flags & seccomp.NEW_LISTENER:
        context.report.pause(f"{LISTENER} {fd}")  # until somebody listens; execve closes ours
    final = capabilities.attainable(process.capabilities, context.held)
    if _extra(context) & ~(final.permitted & final.effective):
        try:
            capabilities.apply(final)
        except PermissionError as error:
            raise OSError(
                error.errno,
                "the seccomp profile forbids capset or prctl, which it may only with "
                "noNewPrivileges (allowPrivilegeEscalation: false)",
            ) from None
