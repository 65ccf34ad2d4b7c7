"""What a monitor knows of its pod: namespaces, containers, commands; and the pod's end."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from runtime.cgroup.kills import OomKills
from runtime.cgroup.tree import Cgroup, Hierarchy
from runtime.codec import encode
from runtime.errors import ContainerNotFound, IllegalTransition, RuntimeFault
from runtime.init import launch
from runtime.init.sandbox import unpin
from runtime.init.values import ContainerPlan, ProcessPlan
from runtime.linux import fds
from runtime.linux.fds import Socket
from runtime.linux.mount import shows_pid_namespaces
from runtime.linux.process import kill_and_wait
from runtime.monitor.attachment import Attachment
from runtime.monitor.command import Command
from runtime.monitor.container import EXITED, RUNNING, Container
from runtime.monitor.facts import Facts
from runtime.monitor.loop import Loop
from runtime.monitor.messages import (
    EXITS_DIRECTORY,
    Attach,
    ContainerExit,
    Dump,
    Exec,
    ExecStream,
    Pause,
    SandboxReport,
    Start,
    StartSandbox,
)
from runtime.monitor.reaper import Reaper

if TYPE_CHECKING:
    from runtime.monitor.shim.shim import Shim

Reply = Callable[[object], None]
Begun = Callable[[object, list[int]], None]
Asker = tuple[object, object]  # a connection, and the number of its message
Launch = Callable[[Callable[[], ContainerPlan], launch.Surroundings], launch.Child]
LaunchProcess = Callable[
    [Callable[[], ProcessPlan], Callable[[], launch.Target], launch.Surroundings], launch.Child
]


class Guest(Protocol):
    """What somebody has asked for and waits for."""

    def kill(self) -> None:
        """He has gone, or wants it no more."""


class Pod:
    """The containers of one sandbox. Single-threaded: calls never overlap."""

    def __init__(self, facts: Facts, hierarchy: Hierarchy, loop: Loop) -> None:
        self.facts = facts
        self.launch_container: Launch = launch.container  # others only to rehearse
        self.launch_process: LaunchProcess = launch.process
        self.loop = loop
        self.reaper = Reaper(loop)
        self.hierarchy = hierarchy
        self.on_exit: Callable[[ContainerExit], None] = lambda _ended: None
        self.on_sandbox_end: Callable[[], None] = lambda: None
        self._sandbox_end = ""  # why, where a shim has made it
        self._containers: dict[str, Container] = {}
        self._guests: dict[Asker, Guest] = {}
        self.shim: Shim | None = None  # of containerd's, where one makes the containers
        self._ending: Callable[[], None] | None = None
        self._oom_kills = OomKills(hierarchy)
        self._spare: Container | None = Container(self, Start("", ""))  # built before the fork

    @property
    def sandbox_id(self) -> str:
        return self.facts.sandbox_id

    def container(self, container_id: str) -> Container:
        """A container that runs. ContainerNotFound otherwise."""
        found = self._containers.get(container_id)
        if found is None or found.state is not RUNNING:
            raise ContainerNotFound(container_id)
        return found

    @property
    def cgroups(self) -> Mapping[str, Cgroup]:
        """Of the containers that run, by id."""
        return {one.id: one.cgroup for one in self._containers.values() if one.runs}

    def has_only(self, container: Container) -> bool:
        """No other has been started, unless it is forgotten."""
        return all(other is container for other in self._containers.values())

    def start(self, request: Start, descriptors: list[int], reply: Reply) -> None:
        """Starts a container; `reply` gets Started or the exception, once its program runs."""
        if self._ending is not None:
            raise IllegalTransition("the sandbox is being removed")
        if request.container_id in self._containers:
            raise IllegalTransition(f"container {request.container_id} was started before")
        container = self._container(request)
        self._oom_kills.begin(request.cgroup_path, self.facts.cgroup_parent)
        self._containers[request.container_id] = container
        if request.untraced or request.pid_namespace == "own" or not self.exposed:
            container.start(descriptors, reply)
            return
        from runtime.monitor.turn import Turn

        Turn(self, container, descriptors, reply)

    def decided(self, container: Container, result: object, reply: Reply) -> None:
        """Whether a container's program runs."""
        if isinstance(result, BaseException):
            self._containers.pop(container.id, None)
        reply(result)
        self._end_if_asked()

    def _container(self, request: Start) -> Container:
        """What only few pods need is loaded by the monitors of those."""
        if request.shim:
            from runtime.monitor.shim.container import ShimContainer

            return ShimContainer(self, request)
        if request.handler:
            from runtime.monitor.oci.container import OciContainer

            return OciContainer(self, request)
        if request.checkpoint:
            from runtime.monitor.criu import container

            return container.made(self, request)
        if request.hooks:
            from runtime.monitor.hooks.container import HookedContainer

            return HookedContainer(self, request)
        spare, self._spare = self._spare, None
        if spare is None:
            return Container(self, request)
        spare.request = request
        return spare

    def start_sandbox(self, request: StartSandbox, plan_fd: int, reply: Reply) -> None:
        """Has a shim make the pod's sandbox; `reply` gets Done or the exception."""
        from runtime.monitor.shim.shim import Shim

        if self.shim is not None or self._ending is not None:
            raise IllegalTransition("the sandbox has a shim, or is being removed")
        self.shim = Shim(self, request.handler)
        self.shim.make_sandbox(plan_fd, reply)

    def lose_sandbox(self, why: str) -> None:
        """What the shim had made has ended; told when the containers have, too."""
        self._sandbox_end = why
        self._end_if_asked()

    def exec(
        self,
        request: Exec | ExecStream,
        asker: Asker,
        stdio: list[int],
        reply: Reply,
        begun: Begun | None = None,
    ) -> None:
        """Runs a command in a container; `reply` gets Executed or the exception at its end.

        stdio: three, -1 for the container's /dev/null; begun: told when the program runs.
        """
        if len(stdio) != 3:
            raise ValueError(f"exec: expected three descriptors, got {len(stdio)}")
        command = self.container(request.container_id).command(request)
        command.begun = begun
        self._guests[asker] = command
        try:
            command.start(stdio, self._leaving(asker, reply))
        except BaseException:
            self._guests.pop(asker, None)
            raise

    def attach(
        self, request: Attach, asker: Asker, pipes: list[int], reply: Reply, begun: Begun
    ) -> None:
        """Copies a container's output to pipes; `reply` gets Detached at the end."""
        if len(pipes) != len(request.streams):
            raise ValueError(f"attach: {len(request.streams)} streams, {len(pipes)} descriptors")
        attachment = Attachment(
            self.container(request.container_id), request, self._leaving(asker, reply)
        )
        self._guests[asker] = attachment
        try:
            attachment.start(pipes, begun)
        except BaseException:
            attachment.discard()
            self._guests.pop(asker, None)
            raise

    def pause(self, request: Pause, asker: Asker, reply: Reply, begun: Begun) -> None:
        """Freezes containers until the asker abandons it; `reply` gets Done when they run again."""
        from runtime.monitor.criu.pause import Pausing

        containers = [self.container(container_id) for container_id in request.container_ids]
        pausing = Pausing(self.loop, containers, self._leaving(asker, reply))
        self._guests[asker] = pausing
        pausing.start(request.timeout, begun)

    def hand_over(
        self, container: Container, stage: str, process: tuple[int, int], peer: Socket | None
    ) -> None:
        """See `listener.hand_over`."""
        from runtime.monitor import listener

        assert peer is not None
        listener.hand_over(container, stage, process, peer)

    def dump(self, request: Dump, asker: Asker, reply: Reply) -> None:
        """Has CRIU write a container's processes to disk; `reply` gets Done or the exception."""
        from runtime.monitor.criu.dump import Dumping

        dumping = Dumping(self, self.container(request.container_id), request)
        self._guests[asker] = dumping
        dumping.start(self._leaving(asker, reply))

    def _leaving(self, asker: Asker, reply: Reply) -> Reply:
        return partial(self._leave, asker, reply)

    def _leave(self, asker: Asker, reply: Reply, result: object) -> None:
        self._guests.pop(asker, None)
        reply(result)

    def end_input(self, asker: Asker) -> None:
        """The client of an attachment or of a command has no more input."""
        guest = self._guests.get(asker)
        if isinstance(guest, Command | Attachment):
            guest.end_input()

    def resize(self, asker: Asker, width: int, height: int) -> None:
        """The client's terminal has another size."""
        guest = self._guests.get(asker)
        if isinstance(guest, Command | Attachment):
            guest.resize(width, height)

    def abandon(self, asker: Asker) -> None:
        """Who asked for a command or an attachment has gone."""
        guest = self._guests.get(asker)
        if guest is not None:
            guest.kill()

    def abandon_all(self, connection: object) -> None:
        """The same, for all that were asked for by one connection."""
        for asker in [asker for asker in self._guests if asker[0] is connection]:
            self.abandon(asker)

    def remove(self, container_id: str, done: Callable[[], None]) -> None:
        """Forgets a container, once it has ended; kills it for that."""
        container = self._containers.get(container_id)
        if container is not None and container.state is not EXITED:
            container.when_ended(lambda: self.remove(container_id, done))
            container.kill()
            return
        self._containers.pop(container_id, None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.exit_path(container_id))
        done()

    def ended(self, container: Container) -> None:
        """A running container has ended: written down first, told then."""
        ended = container.exit
        assert ended is not None
        self.write_down(ended)
        self.on_exit(ended)
        self._end_if_asked()

    def write_down(self, ended: ContainerExit) -> None:
        """An exit is on disk, whole or not at all, before anyone is told of it.

        On a full disk it is only remembered: no pod ends because nothing can be written down.
        """
        path = self.exit_path(ended.container_id)
        unfinished = path + ".partial"
        try:
            with open(unfinished, "w", encoding="utf-8") as file:
                json.dump(encode(ended), file)
            os.rename(unfinished, path)
        except OSError as error:
            fds.log(f"the exit of container {ended.container_id} is not on disk: {error}")

    def oom_kills_of(self, ended: Container) -> int:
        """How many of its processes the kernel killed for want of memory; to be asked once."""
        others = (item for item in self._containers.values() if item is not ended)
        running = (item.cgroup for item in others if item.exit is None)
        return self._oom_kills.of(ended.cgroup, running)

    def report(self) -> SandboxReport:
        containers = self._containers.values()
        running = (item.running for item in containers if item.runs)
        exited = (item.exit for item in containers if item.exit and item.state is EXITED)
        end = self._sandbox_end if self._all_ended() else ""
        return SandboxReport(
            self.sandbox_id, os.getpid(), tuple(running), tuple(exited), sandbox_end=end
        )

    def shutdown(self, done: Callable[[], None]) -> None:
        """Kills every container; when all have ended, removes what the pod had and calls `done`."""
        self._ending = done
        for container in self._containers.values():
            container.kill()
        self._end_if_asked()

    @property
    def untraced(self) -> bool:
        """No container of it can trace what comes into its sight."""
        for one in self._containers.values():
            if one.exit is None and not one.request.untraced:
                return False
        return True

    @property
    def exposed(self) -> bool:
        """Somebody is being prepared in the sight of containers."""
        guests = (one.exposed for one in self._guests.values() if isinstance(one, Command))
        return any(guests) or any(one.exposed for one in self._containers.values())

    def shelters(self, request: Start, pid_ns_fd: int) -> bool:
        """Whether a container is to come into that pid namespace last of all: another one could
        trace it there.

        Not where no procfs can be had for it from outside: in another container's own, before
        Linux 6.17.
        """
        if pid_ns_fd < 0:
            return False
        for one in self._containers.values():
            if one.exit is None and one.request is not request and not one.request.untraced:
                return request.pid_namespace == "pod" or shows_pid_namespaces(pid_ns_fd)
        return False

    def pid_namespace_fd(self, name: str) -> int:
        """A descriptor of the pid namespace to join; -1 for one's own and for the node's.

        name: "own", "node", "pod", or the id of a running container of this pod.
        """
        if name in ("own", "node"):
            return -1
        if name == "pod":
            return os.dup(self.facts.pid_fd)
        return self.container(name).pid_namespace_fd()

    def _all_ended(self) -> bool:
        return all(item.state is EXITED for item in self._containers.values())

    def _end_if_asked(self) -> None:
        done = self._ending
        if (done is None and not self._sandbox_end) or not self._all_ended():
            return
        if done is None:
            self.on_sandbox_end()
            return
        if self.shim is not None and not self.shim.gone:
            self.shim.end(self._end_if_asked)
            return
        if self.facts.reaper_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                kill_and_wait(self.facts.reaper_pidfd)
        if self.facts.netns_path:
            unpin(self.facts.netns_path)
        parent = self.facts.cgroup_parent
        if os.path.basename(parent) == self.sandbox_id:  # ours alone, not kubelet's
            with contextlib.suppress(OSError, RuntimeFault):
                self.hierarchy.cgroup(parent).remove()
        self._ending = None
        done()

    def exit_path(self, container_id: str) -> str:
        return f"{self.facts.directory}/{EXITS_DIRECTORY}/{container_id}.json"
