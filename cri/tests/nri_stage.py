"""A relay with plugins of the kit's, over real sockets; and strangers that speak for themselves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from cri.errors import ContainerNotFound
from cri.nri.api import nri_pb2 as nri
from cri.nri.kit import Plugin
from cri.nri.peer import Identity
from cri.nri.relay import Relay
from cri.plugin_config import NriConfig

QUICK = NriConfig(registration_timeout=1, request_timeout=1)
POD = nri.PodSandbox(id="s1", name="pod")
Talk = Callable[[socket.socket], Coroutine[Any, Any, None]]


@dataclass
class Store:
    """What there is, and what plugins did to it. See `Host`."""

    known: list[nri.Container] = field(default_factory=list)
    updated: list[tuple[str, nri.ContainerUpdate]] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)

    def pods(self) -> list[nri.PodSandbox]:
        return [POD]

    def containers(self) -> list[nri.Container]:
        return self.known

    async def update(self, plugin: str, update: nri.ContainerUpdate) -> None:
        if all(one.id != update.container_id for one in self.known):
            raise ContainerNotFound(update.container_id)
        self.updated.append((plugin, update))

    async def evict(self, plugin: str, eviction: nri.ContainerEviction) -> None:
        self.evicted.append(f"{plugin}: {eviction.container_id}: {eviction.reason}")


@dataclass
class Stage:
    """A relay, and plugins that are connected to it."""

    relay: Relay
    store: Store
    ends: list[asyncio.Task[str]] = field(default_factory=list)

    async def connect(self, plugin: Plugin) -> bool:
        """Whether it becomes one."""
        ours, theirs = socket.socketpair()
        plugin._connect = lambda: asyncio.open_connection(sock=theirs)  # type: ignore[method-assign]
        self.ends.append(asyncio.create_task(plugin.serve()))
        return await self.join(ours)

    async def join(self, ours: socket.socket) -> bool:
        streams = await asyncio.open_connection(sock=ours)
        return await self.relay.join(streams, Identity(pid=1)) is not None

    async def stranger(self, talk: Talk) -> bool:
        """One that speaks for itself; whether it becomes a plugin."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        talking = asyncio.create_task(talk(theirs))
        try:
            return await self.join(ours)
        finally:
            talking.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await talking
            theirs.close()


@contextlib.asynccontextmanager
async def stage(config: NriConfig = QUICK) -> AsyncIterator[Stage]:
    store = Store()
    made = Stage(Relay(config, store), store)
    try:
        yield made
    finally:
        await made.relay.plugins.close()
        await asyncio.gather(*made.ends, return_exceptions=True)


class Scribe(Plugin):
    """Writes down what it hears of."""

    def __init__(self, name: str = "scribe", index: str = "10") -> None:
        super().__init__(name, index)
        self.heard: list[str] = []
        self.synced: list[str] = []

    async def synchronize(
        self, pods: list[nri.PodSandbox], containers: list[nri.Container]
    ) -> list[nri.ContainerUpdate]:
        self.synced = [*(pod.id for pod in pods), *(one.id for one in containers)]
        return []

    async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        self.heard.append(f"run {pod.id}")

    async def stop_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        self.heard.append(f"stop {pod.id}")

    async def remove_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        self.heard.append(f"remove {pod.id}")

    async def create_container(
        self, pod: nri.PodSandbox, container: nri.Container
    ) -> nri.CreateContainerResponse | None:
        self.heard.append(f"create {container.id}")
        return None

    async def stop_container(
        self, pod: nri.PodSandbox, container: nri.Container
    ) -> nri.StopContainerResponse | None:
        self.heard.append(f"end {container.id}")
        return None


def container(name: str, **fields: object) -> nri.Container:
    return nri.Container(id=name, **fields)  # type: ignore[arg-type]  # by name


class Wishing(Plugin):
    """Answers CreateContainer with what it was made with."""

    def __init__(self, name: str, index: str, response: nri.CreateContainerResponse) -> None:
        super().__init__(name, index)
        self.response = response

    async def create_container(
        self, pod: nri.PodSandbox, container: nri.Container
    ) -> nri.CreateContainerResponse | None:
        return self.response


def variable(name: str) -> nri.CreateContainerResponse:
    made = nri.CreateContainerResponse()
    made.adjust.env.add(key=name, value="1")
    return made
