"""A runtime on scratch directories, for tests: busybox containers, and what must not be left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from runtime.cgroup import tree
from runtime.handlers.face import Handler
from runtime.lifecycle import (
    ContainerExit,
    ContainerRequest,
    ExecRequest,
    Runtime,
    SandboxRequest,
    Started,
)
from runtime.linux.process import kill_and_wait
from runtime.spawner.client import SpawnerClient
from runtime.spec import Linux, Memory, Mount, Namespace, Process, Resources, Rootfs, Spec

N = TypeVar("N", bound="Node")

BUSYBOX = "/bin/busybox"
MOUNTS = (
    Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666")),
    Mount("/dev/shm", "tmpfs", "pod-shm", ("nosuid", "noexec", "nodev")),
    Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)
OWN = tuple(Namespace(kind) for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup"))


class Node:
    """A runtime on scratch directories, and what it told us."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler] | None = None) -> None:
        self.path = path
        self.handlers = handlers
        self.state = path / "state"
        self.netns_dir = path / "netns"
        self.cgroup = f"/podwright-test-{os.getpid()}-{path.name}"
        self.exits: dict[str, asyncio.Future[ContainerExit]] = {}
        self.lost: list[str] = []
        self.runtime = self.new_runtime()
        self._rootfs = path / "busybox"
        (self._rootfs / "bin").mkdir(parents=True)
        shutil.copy(BUSYBOX, self._rootfs / "bin" / "busybox")
        for name in (
            "sh",
            "sleep",
            "cat",
            "echo",
            "true",
            "false",
            "id",
            "yes",
            "head",
            "tail",
            "stty",
            "ps",
            "kill",
        ):
            (self._rootfs / "bin" / name).symlink_to("busybox")

    def new_runtime(self) -> Runtime:
        return Runtime(
            self.state,
            self.netns_dir,
            on_exit=self._ended,
            on_lost=self.lost.append,
            handlers=self.handlers,
        )

    def _ended(self, ended: ContainerExit) -> None:
        self.expected(ended.container_id).set_result(ended)

    def expected(self, container_id: str) -> asyncio.Future[ContainerExit]:
        loop = asyncio.get_running_loop()
        return self.exits.setdefault(container_id, loop.create_future())

    async def ended(self, container_id: str) -> ContainerExit:
        return await asyncio.wait_for(self.expected(container_id), 10)

    def sandbox(self, sandbox_id: str, *, pid: str = "container") -> SandboxRequest:
        parent = f"{self.cgroup}/{sandbox_id}"
        return SandboxRequest(sandbox_id, hostname="pod", pid=pid, cgroup_parent=parent)

    def request(
        self, sandbox_id: str, name: str, *args: str, memory: int = 0, log: bool = True
    ) -> ContainerRequest:
        upper, work = self.path / name / "upper", self.path / name / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        limit = Memory(limit=memory, swap=memory) if memory else None
        return ContainerRequest(
            sandbox_id,
            name,
            Spec(
                Process(args, env=("PATH=/bin",)),
                mounts=MOUNTS,
                linux=Linux(
                    namespaces=OWN,
                    cgroups_path=f"{self.cgroup}/{sandbox_id}/{name}",
                    resources=Resources(memory=limit),
                ),
            ),
            Rootfs((os.fspath(self._rootfs),), os.fspath(upper), os.fspath(work)),
            log_path=os.fspath(self.log(name)) if log else "",
        )

    async def start(self, sandbox_id: str, name: str, *args: str, memory: int = 0) -> Started:
        return await self.runtime.start_container(
            self.request(sandbox_id, name, *args, memory=memory)
        )

    def log(self, name: str) -> Path:
        return self.path / f"{name}.log"

    def lines(self, name: str) -> list[str]:
        """The contents of a log, without stamps."""
        return [line.split(" ", 3)[3] for line in self.log(name).read_text().splitlines()]

    async def exec(self, sandbox_id: str, name: str, *args: str, patience: float = 10) -> bytes:
        result = await self.runtime.exec(ExecRequest(sandbox_id, name, args, patience))
        return result.stdout

    async def create(self, sandbox_id: str, *, pid: str = "container") -> int:
        handles = await self.runtime.create_sandbox(self.sandbox(sandbox_id, pid=pid))
        os.close(handles.netns_fd)
        os.close(handles.netlink_fd)
        return handles.pid

    async def remove(self, sandbox_id: str) -> None:
        await self.runtime.remove_sandbox(sandbox_id, cgroup_parent=f"{self.cgroup}/{sandbox_id}")

    def leftovers(self) -> list[str]:
        """What a removed sandbox must not leave behind."""
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found = [line for line in mounts if os.fspath(self.path) in line]
        found += os.listdir(self.state / "monitors")
        found += os.listdir(self.netns_dir) if self.netns_dir.exists() else []
        found += [f"cgroup {self.cgroup}/{name}" for name in self._cgroups()]
        return found

    def _cgroups(self) -> list[str]:
        for base in (f"/sys/fs/cgroup/pids{self.cgroup}", f"/sys/fs/cgroup{self.cgroup}"):
            if os.path.isdir(base):
                return [name for name in os.listdir(base) if os.path.isdir(f"{base}/{name}")]
        return []


@contextlib.asynccontextmanager
async def lifetime(node: N, *sandboxes: str) -> AsyncIterator[N]:
    """Starts the runtime, with these pods; afterwards nothing of it may be left."""
    await node.runtime.start()
    for sandbox_id in sandboxes:
        await node.create(sandbox_id)
    yield node
    for sandbox_id in {*sandboxes, *os.listdir(node.state / "monitors")}:
        await node.remove(sandbox_id)
    await node.runtime.close()
    await asyncio.to_thread(kill_and_wait, os.pidfd_open(await spawner_pid(node)))
    assert node.leftovers() == []
    for top in tree.mount_points():  # a handler's binary makes it in hierarchies not ours, too
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(top + node.cgroup)


async def spawner_pid(node: Node) -> int:
    client = SpawnerClient(node.state)
    try:
        return await client.start()
    finally:
        client.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def until(true: Callable[[], bool]) -> None:
    """Polls for what the kernel or a program does; gives up after ten seconds."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


def wait_for_end(pidfd: int, patience: float = 10) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(patience * 1000))
