"""What init will do, as values: small, flat, with every flag computed. `plan.py` compiles them.

A plan travels as JSON (`runtime.codec`) from the daemon, which compiles it, to the monitor, whose
child executes it. It carries no policy: whatever is in it is done, in the order given.
Numbers are the kernel's: MOUNT_ATTR_* and MS_* flags, st_mode, dev_t, bit masks of capabilities.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from runtime.spec import UserLookup


class MountKind(enum.Enum):
    """Where the mount of a step comes from."""

    NEW = "new"  # a file system of type `source`
    BIND = "bind"  # what is at the path `source` on the node
    SHM = "shm"  # the pod's shared memory
    IMAGE = "image"  # what is at the path `source` in an image's layers
    DEV = "dev"  # a tmpfs with the container's device nodes


class Origin(enum.Enum):
    """What propagation a bind mount's source must have on the node, for ours to mean anything."""

    ANY = "any"
    SLAVE = "slave"  # shared or slave: mounts made on the node must be able to arrive
    SHARED = "shared"  # mounts made in the container must be able to leave


@dataclass(frozen=True, slots=True)
class UserMap:
    """A pod's user namespace: its users from 0 on are the node's from `uid` on, `uids` of them."""

    uid: int
    gid: int
    uids: int
    gids: int


@dataclass(frozen=True, slots=True)
class Attributes:
    """An argument of mount_setattr: bits to set, bits to clear."""

    set: int = 0
    clear: int = 0

    def __bool__(self) -> bool:
        return bool(self.set or self.clear)


NOTHING = Attributes()


@dataclass(frozen=True, slots=True)
class MountStep:
    """One mount below the container's root.

    parameters: (key, value) pairs for fsconfig; an empty value means a flag;
    attributes: of this mount; tree: of it and all below it; propagation: 0 keeps what it is;
    late_readonly: made read-only only when everything below it is mounted;
    real_directory: no symbolic link may lead to the destination (proc, sysfs: CVE-2019-19921);
    inside_proc: the destination is one of the few files in /proc that may be covered;
    layers: an image's directories, topmost first;
    mapped: files belong to the users of the pod's user namespace (an idmapped mount).
    """

    kind: MountKind
    destination: str
    source: str = ""
    recursive: bool = False
    parameters: tuple[tuple[str, ...], ...] = ()
    attributes: Attributes = NOTHING
    tree: Attributes = NOTHING
    propagation: int = 0
    propagation_recursive: bool = False
    origin: Origin = Origin.ANY
    late_readonly: bool = False
    real_directory: bool = False
    inside_proc: bool = False
    mapped: bool = False
    layers: tuple[str, ...] = ()

    def describe(self) -> str:
        """For people: `bind /data -> /mnt`, `tmpfs -> /dev/shm`."""
        if self.kind is MountKind.BIND:
            return f"bind {self.source} -> {self.destination}"
        if self.kind is MountKind.IMAGE:
            return f"/{self.source} of an image -> {self.destination}"
        return f"{self.source or self.kind.value} -> {self.destination}"


@dataclass(frozen=True, slots=True)
class CgroupHierarchy:
    """A v1 hierarchy: the directory below the mount's destination, and mount(2)'s options."""

    directory: str
    options: str


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """/sys/fs/cgroup. hierarchies: v1's, each in a tmpfs; none: cgroup2. links: name, target."""

    destination: str
    attributes: int
    hierarchies: tuple[CgroupHierarchy, ...] = ()
    links: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A device node or fifo. mode: type and permissions, as in st_mode; number: dev_t."""

    path: str
    mode: int
    number: int
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Dev:
    """What /dev holds. directories: mount points below it, made at once; links: name, target.

    own: it is a tmpfs of ours, so nobody else can have put anything there.
    Everything empty: the container's /dev is somebody's bind mount and left alone.
    """

    own: bool = True
    nodes: tuple[Node, ...] = ()
    directories: tuple[str, ...] = ()
    links: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class RootPlan:
    """The root: an overlay of `lower` (topmost first), or a bind mount of `path`.

    mount_label: SELinux's, of all files of the overlay, and of what else is made below it.
    """

    lower: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""
    path: str = ""
    readonly: bool = False
    propagation: int = 0
    propagation_recursive: bool = False
    mount_label: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is. groups: exactly what setgroups(2) gets; home: HOME where env has none."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = ""


@dataclass(frozen=True, slots=True)
class CapabilityMasks:
    """Bit N stands for capability N."""

    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0


@dataclass(frozen=True, slots=True)
class RlimitPlan:
    """resource: RLIMIT_* number; -1 in soft or hard: no limit."""

    name: str
    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class SchedulingPlan:
    """scheduler: a struct sched_attr; io_priority: class and level; memory_mode: with its flags;
    memory_nodes: a bit mask. Empty or None: as it is."""

    scheduler: bytes = b""
    io_priority: int | None = None
    memory_mode: int | None = None
    memory_nodes: bytes = b""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who answers for a seccomp filter. path: where he listens; state: what he is told, as JSON,
    in which the process ids are missing."""

    path: str
    state: str


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """A process: the container's first, or an exec'ed one.

    identity: as far as it is known; lookup: what is to be looked up in the image's files instead
    (an exec'ed process takes the container's identity: see `launch.Target`).
    home_lookup: HOME is missing in env and the identity's home is not known yet.
    user_map: of the user namespace that it joins, in which all ids here are meant.
    seccomp: the BPF program, empty: none; seccomp_flags: for seccomp(2).
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    terminal: bool = False
    rows: int = 0
    columns: int = 0
    identity: Identity = Identity()
    lookup: UserLookup | None = None
    home_lookup: bool = False
    user_map: UserMap | None = None
    umask: int = 0o022
    capabilities: CapabilityMasks = CapabilityMasks()
    rlimits: tuple[RlimitPlan, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    seccomp: bytes = b""
    seccomp_flags: int = 0
    apparmor_profile: str = ""
    scheduling: SchedulingPlan | None = None
    selinux_label: str = ""
    listener: Listener | None = None


@dataclass(frozen=True, slots=True)
class NamespaceStep:
    """A namespace other than the pod's. flag: CLONE_NEW…; path: on the node, empty: a new one.

    node: the node's own, which it must not be, as sysctls are to be set in it; empty: it may be.
    """

    flag: int
    path: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """A container, from its root file system to its first process.

    sysctls: file in the node's /proc and value, of the namespaces that it has or shares.
    """

    process: ProcessPlan
    root: RootPlan = RootPlan()
    mounts: tuple[MountStep, ...] = ()
    dev: Dev = Dev()
    cgroup_mount: CgroupMount | None = None
    cgroup_namespace: bool = True
    own_ipc_namespace: bool = True
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    namespaces: tuple[NamespaceStep, ...] = ()
    sysctls: tuple[tuple[str, ...], ...] = ()
