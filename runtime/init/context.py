"""What init knows and holds between two steps: the plan, its surroundings, its descriptors."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.init.channel import Reporter, Stage
from runtime.init.values import CapabilityMasks, ContainerPlan, Identity, ProcessPlan


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the monitor gives a process beside its plan; it keeps its own. -1: nothing.

    stdio: stdin, stdout, stderr (-1: the container's /dev/null); unused with a terminal.
    mount_ns_fd: the pod's mount namespace, in a copy of which the root is built (`sandbox.py`).
    pid_ns_fd: join this pid namespace; own_pid_namespace: make a new one instead.
    cgroup_fd: a cgroup v2 directory to be born in; tasks: v1's files to join by.
    subreaper: orphaned descendants become this process's children (for exec with a time-out).
    """

    stdio: tuple[int, int, int] = (-1, -1, -1)
    mount_ns_fd: int = -1
    pid_ns_fd: int = -1
    own_pid_namespace: bool = True
    cgroup_fd: int = -1
    tasks: tuple[int, ...] = ()
    subreaper: bool = False


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

    held: its capabilities; ignored: signals it ignores (that survives execve); all_cpus: to undo an
    affinity that systemd gave us, not the container, empty where there is none;
    pid_ns_fd: its own pid namespace.
    """

    held: CapabilityMasks
    ignored: tuple[int, ...]
    all_cpus: tuple[int, ...]
    pid_ns_fd: int


class Context:
    """The one mutable thing. Descriptors are -1 until their step has run; nobody closes them one by
    one: before exec everything above the channel goes at once."""

    __slots__ = (
        "console_fd",
        "cwd_fd",
        "dev_fd",
        "identity",
        "late_readonly",
        "null_fd",
        "ourselves",
        "plan",
        "process",
        "pts_fd",
        "report",
        "root_fd",
        "sources",
        "stages",
        "surroundings",
        "target",
        "warnings",
    )

    def __init__(
        self,
        plan: ContainerPlan | ProcessPlan,
        surroundings: Surroundings,
        ourselves: Ourselves,
        report: Reporter,
        target: Target | None = None,
    ) -> None:
        self.process = plan.process if isinstance(plan, ContainerPlan) else plan
        self.plan = plan if isinstance(plan, ContainerPlan) else _NO_PLAN
        self.surroundings = surroundings
        self.ourselves = ourselves
        self.report = report
        self.target = target
        self.identity = self.process.identity
        self.stages: list[Stage] = []
        self.warnings: list[str] = []
        self.sources: list[int] = []
        self.late_readonly: list[int] = []
        self.root_fd = self.dev_fd = self.pts_fd = self.null_fd = self.cwd_fd = -1
        self.console_fd = -1


_NO_PLAN = ContainerPlan(ProcessPlan(args=()))
