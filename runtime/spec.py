"""The OCI runtime specification (1.3, Linux) as frozen dataclasses: what of it we honour.

JSON by `runtime.codec` with camel=True gives config.json. Units are the specification's: bytes,
microseconds (quota, period), shares. https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class User:
    """Numeric identity. Names are looked up inside the root file system: see UserLookup."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class UserLookup:
    """podwright's extension: an identity that only the container's own files can tell.

    user: "name", "uid", "name:group", "uid:gid" as in an image's USER, or CRI's run_as_username;
    group: overrides the primary group (run_as_group); supplemental: added to the groups;
    merge: also take the groups in which /etc/group lists the user (CRI's policy Merge; Strict: no).
    """

    user: str = ""
    group: int | None = None
    supplemental: tuple[int, ...] = ()
    merge: bool = True


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Names with CAP_, one tuple a set. Inheritable: empty unless a spec asks (CVE-2022-24769)."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()

    @property
    def ever(self) -> frozenset[str]:
        """Whatever a process can come to have, if by a program with file capabilities."""
        sets = (self.bounding, self.effective, self.permitted, self.inheritable, self.ambient)
        return frozenset().union(*sets)


@dataclass(frozen=True, slots=True)
class Rlimit:
    type: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class ConsoleSize:
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class Scheduler:
    """policy, flags: SCHED_…; runtime, deadline, period: ns, of SCHED_DEADLINE. sched(7)"""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


@dataclass(frozen=True, slots=True)
class IoPriority:
    """io_class: IOPRIO_CLASS_RT, _BE or _IDLE; priority: 0 (first) to 7. ioprio_set(2)"""

    io_class: str = field(metadata={"json": "class"})
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    args: tuple[str, ...]
    cwd: str = "/"
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User = User()
    user_lookup: UserLookup | None = None
    capabilities: Capabilities = Capabilities()
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    apparmor_profile: str | None = None  # from execve on; None: as podwright itself is
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    selinux_label: str | None = None  # the same


@dataclass(frozen=True, slots=True)
class Root:
    path: str = "rootfs"
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class IdMapping:
    """Ids from container_id on, in a user namespace, are those from host_id on outside of it."""

    container_id: int = field(default=0, metadata={"json": "containerID"})
    host_id: int = field(default=0, metadata={"json": "hostID"})
    size: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    """options: bind, rbind, ro, rro, nosuid, rprivate, rslave, rshared, mode=…, size=…, data.

    uid_mappings, gid_mappings: whose a bind mount's files seem to be; those of the user namespace.
    layers: podwright's extension: an image's directories, topmost first; `source` is then the path
    in it of what to mount, "" for all of it, read-only in any case.
    """

    destination: str
    type: str = "bind"
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rootfs:
    """What becomes the container's root, inside its own mount namespace (no part of config.json).

    lower: overlay lower directories, topmost first; upper, work: the writable layer.
    Without lower, `Root.path` is bound.
    """

    lower: tuple[str, ...] = ()
    upper: str = ""
    work: str = ""


NEW_NAMESPACE, NODE_NAMESPACE = "new", "node"


@dataclass(frozen=True, slots=True)
class Namespace:
    """type: pid network ipc uts mount cgroup user time; path: join this one; empty: a new one.

    podwright's extension: of those that a pod's containers share, empty is the pod's, NEW_NAMESPACE
    a new one in any case, and NODE_NAMESPACE the node's.
    """

    type: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A node to make in the container. type: c, b, u or p."""

    path: str
    type: str = "c"
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """type: a, c or b; None as major or minor: all; access: some of rwm."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


@dataclass(frozen=True, slots=True)
class Memory:
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None  # memory + swap, as cgroup v1 counts; -1: no limit
    disable_oom_killer: bool | None = field(default=None, metadata={"json": "disableOOMKiller"})
    kernel_tcp: int | None = field(default=None, metadata={"json": "kernelTCP"})
    swappiness: int | None = None  # 0 to 100; these two are cgroup v1's


@dataclass(frozen=True, slots=True)
class Cpu:
    shares: int | None = None
    quota: int | None = None  # -1: no limit
    period: int | None = None
    cpus: str = ""
    mems: str = ""
    realtime_runtime: int | None = None  # of each period; these two are cgroup v1's
    realtime_period: int | None = None


@dataclass(frozen=True, slots=True)
class HugepageLimit:
    page_size: str  # "2MB", "1GB"
    limit: int


@dataclass(frozen=True, slots=True)
class Pids:
    limit: int


@dataclass(frozen=True, slots=True)
class WeightDevice:
    """weight: 10 to 1000, of those that want the same disk."""

    major: int
    minor: int
    weight: int


@dataclass(frozen=True, slots=True)
class Throttle:
    """rate: bytes or operations a second."""

    major: int
    minor: int
    rate: int


@dataclass(frozen=True, slots=True)
class BlockIo:
    weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[Throttle, ...] = ()
    throttle_write_bps_device: tuple[Throttle, ...] = ()
    throttle_read_iops_device: tuple[Throttle, ...] = field(
        default=(), metadata={"json": "throttleReadIOPSDevice"}
    )
    throttle_write_iops_device: tuple[Throttle, ...] = field(
        default=(), metadata={"json": "throttleWriteIOPSDevice"}
    )


@dataclass(frozen=True, slots=True)
class Resources:
    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIo | None = field(default=None, metadata={"json": "blockIO"})
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    unified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeccompArgument:
    index: int
    value: int
    op: str
    value_two: int = 0


@dataclass(frozen=True, slots=True)
class SeccompSyscalls:
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArgument, ...] = ()


@dataclass(frozen=True, slots=True)
class Seccomp:
    """listener_path: of a unix socket on the node, where who answers SCMP_ACT_NOTIFY listens;
    listener_metadata: what that one is told beside."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    syscalls: tuple[SeccompSyscalls, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """mode: MPOL_…; flags: MPOL_F_…; nodes: a list such as 0-3,7. set_mempolicy(2)"""

    mode: str
    nodes: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetDevice:
    """name: in the container's network; "": as on the node."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Linux:
    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = Resources()
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    sysctl: Mapping[str, str] = field(default_factory=dict)
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    memory_policy: MemoryPolicy | None = None
    net_devices: Mapping[str, NetDevice] = field(default_factory=dict)
    """By their names on the node. Who makes the pod's network moves them, before the start."""
    mount_label: str | None = None  # SELinux's, of the file systems that are made for the container


@dataclass(frozen=True, slots=True)
class Hook:
    """A program of the node to be run at a moment of a container's life. timeout: seconds."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    process: Process
    root: Root = Root()
    hostname: str = ""
    mounts: tuple[Mount, ...] = ()
    linux: Linux = Linux()
    annotations: Mapping[str, str] = field(default_factory=dict)
    hooks: Mapping[str, tuple[Hook, ...]] = field(default_factory=dict)  # by kind: prestart …
    oci_version: str = "1.3.0"
