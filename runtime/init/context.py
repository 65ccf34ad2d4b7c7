"""What init knows and holds between two steps: the plan, its surroundings, its descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.init.channel import Reporter, Stage
from runtime.init.values import CapabilityMasks, ContainerPlan, Identity, ProcessPlan


@dataclass(slots=True)  # not frozen: to make such a one costs a monitor memory
class Surroundings:
    """What the monitor gives a process beside its plan; it keeps its own. -1: nothing.

    stdio: stdin, stdout, stderr (-1: the container's /dev/null); unused with a terminal.
    mount_ns_fd: the pod's mount namespace, in a copy of which the root is built (`sandbox.py`).
    pid_ns_fd: join this pid namespace; own_pid_namespace: make a new one instead. sheltered: what
    is exec'ed comes into it last of all; False: at once, since nobody in there may trace it.
    cgroup_fd: a cgroup v2 directory to be born in; tasks: v1's files to join by.
    user_ns_fd: the pod's user namespace.
    subreaper: orphaned descendants become this process's children (for exec with a time-out).
    """

    stdio: tuple[int, int, int] = (-1, -1, -1)
    mount_ns_fd: int = -1
    pid_ns_fd: int = -1
    own_pid_namespace: bool = True
    sheltered: bool = True
    cgroup_fd: int = -1
    tasks: tuple[int, ...] = ()
    subreaper: bool = False
    user_ns_fd: int = -1


@dataclass(frozen=True, slots=True)
class Target:
    """The container in which a process is to be exec'ed.

    pidfd: of any process of it that lives. identity: who its first process turned out to be
    (`channel.Ready.identity`); used where the plan leaves something to look up.
    """

    pidfd: int
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Ourselves:
    """What the monitor finds out about itself once, so that no child has to.

    held: its capabilities; in_user_namespace: those that joining a user namespace gives;
    ignored: signals it ignores (that survives execve); all_cpus: to undo an affinity that systemd
    gave us, not the container, empty where there is none; pid_ns_fd: its own pid namespace.
    """

    held: CapabilityMasks
    in_user_namespace: CapabilityMasks
    ignored: tuple[int, ...]
    all_cpus: tuple[int, ...]
    pid_ns_fd: int


class Context:
    """The one mutable thing. Descriptors are -1 until their step has run; nobody closes them one by
    one: before exec everything above the channel goes at once. (Defaults of the class, as each
    attribute that is set touches, and in a fresh fork copies, pages of memory.)"""

    shm = b"/shm"  # the pod's shared memory in the mount namespace in which we are: see sandbox.py
    root_fd = dev_fd = pts_fd = null_fd = cwd_fd = console_fd = -1
    sources: Sequence[int] = ()
    late_readonly: Sequence[int] = ()
    warnings: Sequence[str] = ()

    def __init__(
        self,
        plan: ContainerPlan | ProcessPlan,
        surroundings: Surroundings,
        ourselves: Ourselves,
        report: Reporter,
        target: Target | None = None,
    ) -> None:
        if isinstance(plan, ContainerPlan):
            self.plan, self.process = plan, plan.process
        else:
            self.plan, self.process = _NO_PLAN, plan
        self.surroundings = surroundings
        self.ourselves = ourselves
        self.report = report
        self.target = target
        self.identity = self.process.identity
        self.user_ns_fd = surroundings.user_ns_fd
        self.stages: list[Stage] = []

    @property
    def held(self) -> CapabilityMasks:
        """What this process has to hand on, when it becomes the container's."""
        ourselves = self.ourselves
        return ourselves.held if self.process.user_map is None else ourselves.in_user_namespace

    def warn(self, text: str) -> None:
        """For the monitor to log: something was asked for that couldn't be given."""
        self.warnings = (*self.warnings, text)


_NO_PLAN = ContainerPlan(ProcessPlan(args=()))
