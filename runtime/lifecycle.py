"""The runtime as the daemon sees it: sandboxes and containers by id, asynchronously.

Every method is safe to repeat. What a call has made when it fails, it has removed again, or
`remove_sandbox` removes it. Nothing here blocks the event loop: files are touched in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runtime import sessions, sweep
from runtime.cgroup import driver, tree, units
from runtime.checkpoints import Checkpoints
from runtime.errors import (
    ContainerNotFound,
    ExecTimedOut,
    MonitorLost,
    MonitorSilent,
    RuntimeFault,
    SandboxNotFound,
)
from runtime.handlers.embedded import Embedded
from runtime.handlers.face import Ground, Handler, Work
from runtime.handlers.sandboxes import Sandboxes
from runtime.init import channel
from runtime.init.cgroups import CgroupLayout
from runtime.linux import fds
from runtime.monitor import client as monitors
from runtime.monitor.client import MonitorClient
from runtime.monitor.collect import collect_output
from runtime.monitor.messages import (
    ContainerExit,
    Done,
    Exec,
    Executed,
    Identity,
    MonitorRequest,
    Remove,
    ReopenLog,
    Report,
    SandboxReport,
    SandboxRequest,
    Shutdown,
    Signal,
    Stage,
    Start,
    Started,
)
from runtime.prepare import Place, Prepared
from runtime.sessions import AttachRequest, Session, StreamedExec
from runtime.spawner.client import SpawnerClient
from runtime.spec import Rootfs, Spec
from runtime.update import Updates
from runtime.usage import Usages

__all__ = [
    "AttachRequest",
    "ContainerExit",
    "ContainerRequest",
    "ExecRequest",
    "ExecResult",
    "Identity",
    "Runtime",
    "SandboxHandles",
    "SandboxReport",
    "SandboxRequest",
    "Session",
    "Stage",
    "Started",
    "StreamedExec",
]

log = logging.getLogger(__name__)

START_PATIENCE = 120.0  # a bind source on a slow network file system may take its time
REPORT_PATIENCE = 3.0  # a monitor answers in less than a millisecond
SIGNAL_PATIENCE = 10.0
EXEC_PATIENCE = 30.0  # beyond the command's own time limit
SHUTDOWN_PATIENCE = 15.0  # then the monitor itself is killed and its leftovers are swept
_EMBEDDED = Embedded()
MAX_OUTPUT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """A container to start. pid_target: the container whose pid namespace it joins; handler: who
    runs it, one that `Runtime` was told of, else the embedded runtime; checkpoint: the directory of
    the checkpoint that it goes on from, which this changes; shm: see `Start`; "" for none."""

    sandbox_id: str
    container_id: str
    spec: Spec
    rootfs: Rootfs
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    pid_target: str = ""
    handler: str = ""
    checkpoint: str = ""
    shm: str = ""


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """A command to run to its end. timeout: seconds, 0: none; max_output: bytes a stream."""

    sandbox_id: str
    container_id: str
    args: tuple[str, ...]
    timeout: float = 0.0
    max_output: int = MAX_OUTPUT


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class SandboxHandles:
    """A new sandbox. The descriptors are the caller's to close; -1 with the node's network."""

    pid: int
    netns_path: str
    netns_fd: int
    netlink_fd: int
    stages: tuple[Stage, ...]


class Runtime:
    """Runs sandboxes below a state directory.

    handlers: runtimes other than the embedded one, by name; on_exit: told of each container's
    end, in the event loop; on_lost: told the id of a sandbox whose monitor died without having been
    asked to, or that its shim has told the end of; updates, checkpoints, sandboxes (those that
    shims make): once started; user_namespace_refusal: why pods can't have one.
    """

    def __init__(
        self,
        state: Path,
        netns_dir: Path,
        *,
        on_exit: Callable[[ContainerExit], None],
        on_lost: Callable[[str], None],
        cgroup_driver: str = driver.CGROUPFS,
        handlers: Mapping[str, Handler] | None = None,
    ) -> None:
        self._wanted_driver = cgroup_driver
        self._driver: driver.Driver = driver.Cgroupfs()
        self._state = state
        self._handlers = handlers or {}
        self._monitors_dir = state / "monitors"
        self._netns_dir = netns_dir
        self._spawner = SpawnerClient(state)
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._monitors: dict[str, MonitorClient] = {}
        self.usages = Usages()
        self.user_namespace_refusal = "nobody has tried yet"

    async def start(self, *, criu: str = "criu") -> None:
        """Finds the spawner of this code's version, or starts one. criu: its name, or path."""
        self.checkpoints = Checkpoints(criu, self._client)
        await asyncio.to_thread(self._monitors_dir.mkdir, mode=0o700, parents=True, exist_ok=True)
        mountinfo = await asyncio.to_thread(Path("/proc/self/mountinfo").read_text)
        hierarchy = await asyncio.to_thread(tree.detect)
        self._driver, why = await asyncio.to_thread(driver.driver, self._wanted_driver, hierarchy)
        log.info("cgroup driver: %s, since %s", self._driver.name, why)
        place = Place(hierarchy, self._driver)
        self._ground = Ground(self._state, place, CgroupLayout.parse(mountinfo.splitlines()))
        self.updates = Updates(hierarchy, self._driver)
        self.sandboxes = Sandboxes(self._monitors_dir, self._handlers, self._client)
        await self._spawner.start()

    @property
    def systemd(self) -> bool:
        """Once started: whether systemd makes the cgroups of new pods."""
        return self._driver.name == driver.SYSTEMD

    async def probe(self, layers: tuple[str, str]) -> None:
        """Finds out what the node can. layers: two empty directories where images' layers lie."""
        self.user_namespace_refusal = await self._spawner.user_namespace_refusal(layers)

    async def create_sandbox(self, request: SandboxRequest) -> SandboxHandles:
        """Has the pod's namespaces built, and its monitor forked into them."""
        sandbox_id = request.sandbox_id
        directory = self._monitors_dir / sandbox_id
        netns_path = self._netns_path(sandbox_id) if request.network == "pod" else ""
        spawn = await self._spawner.spawn(MonitorRequest(request, os.fspath(directory), netns_path))
        self._adopt(sandbox_id, spawn.connection).keep()
        netns_fd, netlink_fd = spawn.handles or (-1, -1)
        spawned = spawn.spawned
        return SandboxHandles(spawned.pid, netns_path, netns_fd, netlink_fd, spawned.stages)

    async def reconnect(self, sandbox_id: str) -> SandboxReport | None:
        """After a restart: the monitor's memory of its containers; None: it is gone.

        Raises MonitorSilent if it is there, but does not answer.
        """
        if sandbox_id not in self._monitors:
            path = os.fspath(self._monitors_dir / sandbox_id / "monitor.sock")
            try:
                connection = await asyncio.to_thread(fds.connect, path)
            except OSError:
                return None
            self._adopt(sandbox_id, connection)
        try:
            return await self._monitors[sandbox_id].ask(
                Report(), SandboxReport, patience=REPORT_PATIENCE
            )
        except MonitorSilent:
            raise
        except MonitorLost:
            self._forget(sandbox_id)
            return None

    async def exits(self, sandbox_id: str) -> tuple[ContainerExit, ...]:
        """The exits that a monitor, now dead, had written down."""
        return await asyncio.to_thread(monitors.exits, self._monitors_dir / sandbox_id)

    async def start_container(self, request: ContainerRequest) -> Started:
        """Runs the container's program. Raises InitFailed(step, errno, text), InvalidSpec."""
        handler = self._handlers.get(request.handler, _EMBEDDED)
        spec = request.spec
        start = Start(
            container_id=request.container_id,
            cgroup_path=spec.linux.cgroups_path,
            terminal=spec.process.terminal,
            pid_namespace=_pid_namespace(request),
            log_path=request.log_path,
            stdin=request.stdin,
            stdin_once=request.stdin_once,
            handler=handler.name,
            hooks=not handler.name and any(spec.hooks.values()),
            untraced="CAP_SYS_PTRACE" not in spec.process.capabilities.ever,
            shim=handler.shim,
            checkpoint=request.checkpoint,
            criu=await self.checkpoints.restorer(spec) if request.checkpoint else "",
            shm=request.shm,
        )
        client = self._client(request.sandbox_id)
        place = self._monitors_dir / request.sandbox_id
        work = Work(request.container_id, place, spec, request.rootfs)
        prepared = await asyncio.to_thread(handler.prepare, self._ground, work)
        try:
            started = await client.ask(start, Started, prepared.fds, patience=START_PATIENCE)
        except (SandboxNotFound, MonitorLost):
            await _joined(prepared)
            await asyncio.to_thread(prepared.cgroup.remove)
            raise
        finally:
            prepared.close()
            await _joined(prepared)
        return replace(
            started,
            stages=(*prepared.stages, *started.stages, *_stages(started)),
            warnings=(*prepared.notes, *started.warnings),
        )

    async def signal(self, sandbox_id: str, container_id: str, signal: int) -> None:
        """To the container's first process; SIGKILL to all. ContainerNotFound if it doesn't run."""
        client = self._client(sandbox_id)
        await client.ask(Signal(container_id, signal), Done, patience=SIGNAL_PATIENCE)

    async def exec(self, request: ExecRequest) -> ExecResult:
        """Runs a command in a running container and collects what it prints.

        Raises ExecTimedOut after request.timeout; the command and its descendants are dead then.
        """
        client = self._client(request.sandbox_id)
        run = Exec(request.container_id, request.args, request.timeout)

        async def ask(descriptors: tuple[int, int, int]) -> Executed:
            patience = request.timeout + EXEC_PATIENCE if request.timeout else None
            return await client.ask(run, Executed, descriptors, patience=patience)

        executed, stdout, stderr = await collect_output(ask, request.max_output)
        if executed.timed_out:
            raise ExecTimedOut(f"command {request.args[0]!r} timed out after {request.timeout:g} s")
        return ExecResult(executed.exit_code, stdout, stderr)

    async def open_exec(self, request: StreamedExec) -> Session:
        """Starts a command for a client who listens. Raises InitFailed, ContainerNotFound."""
        return await sessions.open_exec(self._client(request.sandbox_id), request)

    async def attach(self, request: AttachRequest) -> Session:
        """Attaches a client to a running container. Raises ContainerNotFound."""
        return await sessions.attach(self._client(request.sandbox_id), request)

    async def dial(self, sandbox_id: str, port: int) -> socket.socket:
        """A TCP connection to a port of the pod's loopback; non-blocking. Raises OSError."""
        return await sessions.dial(self._client(sandbox_id), port)

    async def netlink(self, sandbox_id: str) -> int:
        """See `sessions.netlink`."""
        return await sessions.netlink(self._client(sandbox_id))

    async def reopen_log(self, sandbox_id: str, container_id: str) -> None:
        """Opens the log's path anew. ContainerNotFound if it doesn't run: no file is made then."""
        await self._client(sandbox_id).ask(ReopenLog(container_id), Done)

    async def remove_container(self, sandbox_id: str, container_id: str) -> None:
        """Kills it if it runs, and forgets its exit. Idempotent."""
        with contextlib.suppress(SandboxNotFound, MonitorLost, ContainerNotFound):
            await self._client(sandbox_id).ask(Remove(container_id), Done)
        if self.systemd:
            await asyncio.to_thread(self._driver.forget, units.scope_name(container_id))

    async def remove_sandbox(self, sandbox_id: str, *, cgroup_parent: str = "") -> None:
        """Kills all of a pod's processes, ends its monitor, removes what they had. Idempotent.

        It works as well where the monitor is already dead, or does not answer.
        """
        self.usages.forget(cgroup_parent)
        client = self._monitors.pop(sandbox_id, None)
        if client is not None:
            try:
                await client.ask(Shutdown(), Done, patience=SHUTDOWN_PATIENCE)
            except (RuntimeFault, OSError) as error:
                log.warning("sandbox %s: its monitor is killed: %s", sandbox_id, error)
            finally:
                client.close()
        leftovers = sweep.Leftovers(
            directory=self._monitors_dir / sandbox_id,
            netns_path=Path(self._netns_path(sandbox_id)),
            owned_cgroup=cgroup_parent if Path(cgroup_parent).name == sandbox_id else "",
        )
        await asyncio.to_thread(sweep.sweep, leftovers)
        if self.systemd and units.is_slice(cgroup_parent) and sandbox_id in cgroup_parent:
            await asyncio.to_thread(self._driver.forget, Path(cgroup_parent).name)

    def sandboxes_on_disk(self) -> tuple[str, ...]:
        """The ids of which a monitor directory exists, dead or alive."""
        try:
            return tuple(sorted(os.listdir(self._monitors_dir)))
        except FileNotFoundError:
            return ()

    async def close(self) -> None:
        """Lets go of spawner and monitors; they live on."""
        for client in self._monitors.values():
            client.close()
        self._monitors.clear()
        self._spawner.close()
        await self.usages.close()

    def _netns_path(self, sandbox_id: str) -> str:
        return os.fspath(self._netns_dir / f"cni-{sandbox_id}")

    def _client(self, sandbox_id: str) -> MonitorClient:
        try:
            return self._monitors[sandbox_id]
        except KeyError:
            raise SandboxNotFound(sandbox_id) from None

    def _adopt(self, sandbox_id: str, connection: socket.socket) -> MonitorClient:
        def lost() -> None:
            if self._monitors.pop(sandbox_id, None) is not None:  # nobody has asked it to end
                self._on_lost(sandbox_id)

        client = MonitorClient(connection, self._on_exit, lost, lambda: self._on_lost(sandbox_id))
        self._monitors[sandbox_id] = client
        return client

    def _forget(self, sandbox_id: str) -> None:
        client = self._monitors.pop(sandbox_id, None)
        if client is not None:
            client.close()


async def _joined(prepared: Prepared) -> None:
    if prepared.joined is not None:
        await asyncio.to_thread(prepared.joined)


def _stages(started: Started) -> list[Stage]:
    """Those of init."""
    if started.init_stages:
        return [Stage(*row) for row in json.loads(started.init_stages)]
    return [Stage(*row) for row in channel.stages(started.steps)]


def _pid_namespace(request: ContainerRequest) -> str:
    """own, node, pod or a container's id, from the spec and the request."""
    if request.pid_target:
        return request.pid_target
    listed = [item for item in request.spec.linux.namespaces if item.type == "pid"]
    return ("pod" if listed[0].path == "pod" else "own") if listed else "node"
