"""A container's processes as files: one run of `criu dump`, which leaves them as it found them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from runtime.checkpoint import criu, ipc, shm, terminals
from runtime.errors import CheckpointFailed, InitFailed
from runtime.init import sandbox
from runtime.linux.fds import Socket
from runtime.linux.namespace import Clone, setns, unshare
from runtime.monitor.messages import Done, Dump
from runtime.monitor.program import Program, execute

if TYPE_CHECKING:
    from runtime.cgroup.tree import Cgroup
    from runtime.monitor.container import Container
    from runtime.monitor.pod import Pod

Answer = Callable[[object], None]


class Dumping:
    """CRIU at work on `container`. If it is killed, the processes it holds are let go."""

    def __init__(self, pod: Pod, container: Container, request: Dump) -> None:
        self._request = request
        self._pod = pod
        self._container = container
        self._program = Program(pod, "criu dump", self._ended)
        self._answer: Answer | None = None

    def start(self, answer: Answer) -> None:
        self._answer = answer
        container = self._container
        freezer = container.cgroup.freezer
        pid, request = container.pid, self._request
        mount_fd = self._pod.facts.mount_fd
        cgroups = self._pod.cgroups
        master = container.stdin_fd if container.request.terminal else -1
        shared = container.request.pid_namespace not in ("own", "node")

        def body(_peer: Socket) -> None:
            os.umask(0o077)
            if request.shm:
                users = container.load_process().user_map
                _copy_shared_memory(mount_fd, request.shm, shm.inside(users))
            if container.load_plan().own_ipc_namespace and _has_ipc(container, cgroups, request):
                unshare(Clone.NEWIPC)  # in the pod's, CRIU would leave out what is in there
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                mounts = criu.parse_mounts(file)
            pids = _shared_pids(pid) if shared else 0
            terminal = terminals.key(master) if master >= 0 else ""
            subject = criu.Subject(pid, mounts, freezer, pids, terminal)
            execute(criu.dump(request.criu, subject, request.directory))

        self._program.start(body, patience=request.timeout)
        container.when_ended(self.kill)  # there is nothing left to write down

    def kill(self) -> None:
        self._program.kill()

    def _ended(self, code: int, failure: InitFailed | None) -> None:
        answer = self._answer
        assert answer is not None
        if failure is not None:
            answer(CheckpointFailed(str(failure)))
        elif code:
            answer(CheckpointFailed(criu.complaint(f"{self._request.directory}/dump.log", code)))
        else:
            answer(Done())


def _has_ipc(container: Container, cgroups: Mapping[str, Cgroup], request: Dump) -> bool:
    """Whether a container is who takes the pod's System V IPC along: if it has segments of memory
    attached, which only CRIU can attach again; where none has, if it takes the pod's memory too.
    """
    if not ipc.in_use():
        return False
    holders = {name for name, cgroup in cgroups.items() if ipc.attached(cgroup.pids())}
    return container.id in holders or (not holders and bool(request.shm))


def _copy_shared_memory(mount_fd: int, target: str, owner: shm.Owner) -> None:
    """What is in the pod's /dev/shm. mount_fd: the pod's mount namespace."""
    into = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    node = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    setns(mount_fd, Clone.NEWNS)
    found = shm.open_at(sandbox.SHM)
    setns(node, Clone.NEWNS)
    os.close(node)
    if found >= 0:
        shm.copy(found, into, owner)


def _shared_pids(pid: int) -> int:
    """The inode of the pid namespace that a container shares with its pod."""
    return os.stat(f"/proc/{pid}/ns/pid").st_ino
