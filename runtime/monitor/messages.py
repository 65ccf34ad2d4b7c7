"""Every word between the daemon and a monitor. README.md of this package's parent draws the talk.

A packet is {"id": N, "do": WORD, ...fields} from the daemon and {"id": N, "ok": {...}} or
{"id": N, "failed": {...}} back; {"event": "exit", ...} comes unasked, and so does
{"event": "sandbox-end"}, of which a Report tells more. ExecStream and Attach are
answered twice: {"id": N, "open": {...}} when it has begun, with the descriptors that are now the
daemon's, and one of the others at its end. Fields may be added, never renamed or given another
meaning: a daemon meets monitors that an older version has forked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.init.values import UserMap

PROTOCOL = 1
EXITS_DIRECTORY = "exits"  # in the monitor's own: a ContainerExit each


@dataclass(frozen=True, slots=True)
class Stage:
    """A piece of a pod's start. start: CLOCK_MONOTONIC, ns; duration: ns."""

    name: str
    start: int
    duration: int


@dataclass(frozen=True, slots=True)
class SandboxRequest:
    """What a pod's sandbox is made of.

    network, ipc: "pod" (namespaces of its own) or "node"; pid: "pod" (one for all containers),
    "container" or "node"; sysctls: namespaced ones only; shm_bytes: size of the shared /dev/shm;
    user_map: of a user namespace of its own, which then owns the others and in which ids of
    sysctls are meant; mount_label: SELinux's, of the files in /dev/shm; process_label: of what runs
    in the pod for all of it.
    """

    sandbox_id: str
    hostname: str = ""
    network: str = "pod"
    ipc: str = "pod"
    pid: str = "container"
    sysctls: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    shm_bytes: int = 64 * 1024 * 1024
    user_map: UserMap | None = None
    mount_label: str = ""
    process_label: str = ""


@dataclass(frozen=True, slots=True)
class MonitorRequest:
    """What the spawner hands to the monitor it forks.

    directory: the monitor's own, made by the daemon; netns_path: where to pin the pod's network
    namespace, empty without one.
    """

    sandbox: SandboxRequest
    directory: str
    netns_path: str = ""


@dataclass(frozen=True, slots=True)
class Keep:
    """The daemon knows of you: live on without it. Never answered.

    A monitor whose first connection ends before any word was never heard of, and ends.
    """


@dataclass(slots=True)  # not frozen: to make such a one costs a monitor memory
class Start:
    """Run a container, in a cgroup that the daemon has made and whose removal is the monitor's.

    With it travel the plan (a file: JSON of runtime.init.values.ContainerPlan, which only init
    decodes) and, for cgroup v1, its `tasks` files, for v2, its directory.
    pid_namespace: "own", "node", "pod", or the id of the container whose namespace to join.
    handler: the name of the handler whose binary makes it: the plan is an OciPlan then, and with no
    cgroup descriptors the binary makes the cgroup; empty: the embedded runtime. shim: the binary is
    a shim of containerd's, and the plan a TaskPlan.
    checkpoint: the directory with a checkpoint that it goes on from, which this changes; criu: the
    program which restores it; shm: a directory of what the pod's /dev/shm is to have before, "" for
    none. The plan says what it is to be, as of any container. hooks: the plan
    is a HookedPlan, and the node's network, IPC and UTS namespaces follow it. untraced: no process
    of it can come to trace others.
    """

    container_id: str
    cgroup_path: str
    terminal: bool = False
    pid_namespace: str = "own"
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    handler: str = ""
    hooks: bool = False
    untraced: bool = False
    shim: bool = False
    checkpoint: str = ""
    criu: str = ""
    shm: str = ""


@dataclass(frozen=True, slots=True)
class StartSandbox:
    """Have a shim of containerd's make the pod's sandbox, before any container. The plan travels
    with it: a ShimPlan. handler: the name of the handler. Answer: Done."""

    handler: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a container's first process is, as its own files told."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The container's program runs. started_at: ns since the epoch; warnings: for the log.

    steps: those of init, see runtime.init.channel.stages; init_stages: the same, as JSON, from an
    older monitor.
    """

    pid: int
    started_at: int
    identity: Identity = Identity()
    stages: tuple[Stage, ...] = ()
    warnings: tuple[str, ...] = ()
    init_stages: str = ""
    steps: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to a container's first process; SIGKILL goes to every process of it."""

    container_id: str
    signal: int


@dataclass(slots=True)  # as Start
class Exec:
    """Run a command in a container; stdin, stdout and stderr travel as descriptors.

    timeout: seconds, 0 for none; afterwards the command and all its descendants are killed.
    """

    container_id: str
    args: tuple[str, ...]
    timeout: float = 0.0


@dataclass(slots=True)  # as Start
class Executed:
    exit_code: int
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class ExecStream:
    """Run a command for a client who listens; begun when its program runs. Answer: Executed.

    streams: which of 0, 1, 2 travel as descriptors, the others are the container's /dev/null; with
    a terminal none does, and its master comes back; or, where somebody else holds that, two pipes:
    for its input, and for its output. Its size is told by Resize then.
    """

    container_id: str
    args: tuple[str, ...]
    terminal: bool = False
    streams: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Attach:
    """Copy a container's output, from now on, to pipes; answered by Detached at the end.

    streams: which of 1, 2 travel as the pipes' write ends. Begun: Attached, with the terminal's
    master, or with the write end of stdin if `stdin` asks for it and it is open.
    """

    container_id: str
    stdin: bool = False
    streams: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Attached:
    """has_stdin: the container has one that is open; one of a terminal is. remote: somebody else
    has the terminal's master, stdin is a pipe, and the size is told by Resize."""

    terminal: bool = False
    has_stdin: bool = False
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Detached:
    """too_slow: the pipe was full, and neither the container nor its log waits for a reader."""

    too_slow: bool = False


@dataclass(frozen=True, slots=True)
class EndInput:
    """The client of the Attach with this message id has no more input: where the container's stdin
    is for one client only, it ends. Or that of the ExecStream, which has closed its pipe: somebody
    in between may have to. Never answered."""

    exec_id: int


@dataclass(frozen=True, slots=True)
class Resize:
    """The client's terminal has another size, in columns and rows. exec_id: as in EndInput; for a
    terminal whose master the daemon has not been given. Never answered."""

    exec_id: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Sockets:
    """Answered once, as begun, with TCP sockets of the pod's network: IPv4, IPv6 if it has one.

    netlink: with one for rtnetlink(7) instead.
    """

    netlink: bool = False


@dataclass(frozen=True, slots=True)
class Abandon:
    """Whoever asked for the exec (or attach) with this message id has gone: kill it (detach).

    Never answered.
    """

    exec_id: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Freeze containers, all or none; begun when they are. Whoever asked ends it by Abandon, or by
    being gone: they run on, and Done is the answer.

    timeout: seconds that freezing may take.
    """

    container_ids: tuple[str, ...]
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Dump:
    """Have CRIU (`criu`, its path) write the processes of a container to `directory`/checkpoint.

    They are left as they are, frozen or running. timeout: seconds, then CRIU is killed. shm: an
    empty directory that gets what is in the pod's /dev/shm, "" for none: another has it already.
    """

    container_id: str
    criu: str
    directory: str
    timeout: float
    shm: str = ""


@dataclass(frozen=True, slots=True)
class ReopenLog:
    container_id: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget a container, killing it first if it runs. An unknown one is no error."""

    container_id: str


@dataclass(frozen=True, slots=True)
class Report:
    """What became of your containers?"""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Kill everything, remove the cgroups, unpin, answer, end."""


@dataclass(frozen=True, slots=True)
class ContainerExit:
    """A container's end. finished_at: ns since the epoch; exit_code: 128 + N after signal N."""

    sandbox_id: str
    container_id: str
    exit_code: int
    finished_at: int
    oom_killed: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class RunningContainer:
    container_id: str
    pid: int
    started_at: int
    identity: Identity = Identity()


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """Answer to Report: the monitor's whole memory. protocol: the oldest words it knows;
    sandbox_end: why the pod's sandbox has ended by itself, with all that was in it; "": it has not.
    """

    sandbox_id: str
    pid: int
    running: tuple[RunningContainer, ...] = ()
    exited: tuple[ContainerExit, ...] = ()
    protocol: int = PROTOCOL
    sandbox_end: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more to say."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed. kind: the name of a class in runtime.errors; the rest: its fields."""

    kind: str
    text: str
    step: str = ""
    errno: int = 0


Request = (
    Keep
    | Start
    | StartSandbox
    | Signal
    | Exec
    | ExecStream
    | Attach
    | EndInput
    | Resize
    | Sockets
    | Abandon
    | Pause
    | Dump
    | ReopenLog
    | Remove
    | Report
    | Shutdown
)

REQUESTS: Mapping[str, type[Request]] = {
    "keep": Keep,
    "start": Start,
    "start-sandbox": StartSandbox,
    "signal": Signal,
    "exec": Exec,
    "exec-stream": ExecStream,
    "attach": Attach,
    "end-input": EndInput,
    "resize": Resize,
    "sockets": Sockets,
    "abandon": Abandon,
    "pause": Pause,
    "dump": Dump,
    "reopen-log": ReopenLog,
    "remove": Remove,
    "report": Report,
    "shutdown": Shutdown,
}
WORDS: Mapping[type[Request], str] = {kind: word for word, kind in REQUESTS.items()}
