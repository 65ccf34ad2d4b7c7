"""The plugins that are connected, in the order of their index and name.

A plugin that joins is put among the others in the same turn of the loop in which it is decided what
it is told of: the pods and containers of the store, and those under way whose other plugins have
been asked already. Whatever comes later waits until it has taken that in. So nothing is lost, and
nobody else waits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine
from typing import TypeVar

from google.protobuf.message import Message

from cri.errors import CriFault
from cri.nri.api import nri_pb2 as nri
from cri.nri.host import Host
from cri.nri.peer import EVENTS, CantJoin, Identity, Patience, Peer, Unsolicited

log = logging.getLogger(__name__)

MOST_PLUGINS = 64
SHUTDOWN_SECONDS = 1.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Out = TypeVar("Out", bound=Message)


class Plugins:
    """Used from the loop's thread.

    pods, containers: those under way that plugins have been asked about, by id, as they were told;
    leaving: ids of those whose removal plugins are told of, for who joins just then.
    """

    def __init__(self, patience: Patience, host: Host, unsolicited: Unsolicited) -> None:
        self.pods: dict[str, nri.PodSandbox] = {}
        self.containers: dict[str, nri.Container] = {}
        self.leaving: set[str] = set()
        self._patience = patience
        self._host = host
        self._unsolicited = unsolicited
        self._connected: dict[Peer, asyncio.Task[None]] = {}
        self._peers: list[Peer] = []
        self._background: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._peers)

    @property
    def now(self) -> tuple[Peer, ...]:
        """Those that a request which begins now has to do with."""
        return tuple(self._peers)

    async def join(
        self, streams: Streams, identity: Identity
    ) -> tuple[Peer, list[nri.ContainerUpdate]] | None:
        """A plugin that has connected becomes one of us, and may want changes; None: it can't."""
        if len(self._connected) >= MOST_PLUGINS:
            log.warning("NRI: %d plugins are connected: another one is turned away", MOST_PLUGINS)
            streams[1].close()
            return None
        peer = Peer(streams, identity, self._patience, self._unsolicited)
        self._connected[peer] = asyncio.create_task(self._run(peer), name=f"NRI plugin {peer}")
        try:
            await peer.introduce()
            updates = await self._synchronize(peer)
        except CantJoin as error:
            peer.gone = peer.gone or str(error)
            log.warning("NRI plugin %s (pid %d) can't join: %s", peer, identity.pid, error)
            peer.drop(peer.gone)
            return None
        names = ", ".join(map(str, self._peers))
        log.info("NRI plugin %s (pid %d) has joined; plugins: %s", peer, identity.pid, names)
        return peer, updates

    async def _run(self, peer: Peer) -> None:
        await peer.run()
        del self._connected[peer]
        if peer in self._peers:
            self._peers.remove(peer)
            log.info("NRI plugin %s has gone: %s", peer, peer.gone)

    async def _synchronize(self, peer: Peer) -> list[nri.ContainerUpdate]:
        pods = {pod.id: pod for pod in self._host.pods()} | self.pods
        containers = {one.id: one for one in self._host.containers()} | self.containers
        for subject in self.leaving:
            pods.pop(subject, None)
            containers.pop(subject, None)
        peer.identity.twin = any(str(one) == str(peer) for one in self._peers)
        self._peers.append(peer)
        self._peers.sort(key=str)
        try:
            return await peer.synchronize(pods.values(), containers.values())
        except CantJoin:
            if peer in self._peers:
                self._peers.remove(peer)
            raise

    async def close(self) -> None:
        """Tell them that we end, and end the connections."""
        peers = list(self._connected)
        tasks = [*self._connected.values(), *self._background]
        await asyncio.gather(*(peer.shut_down(SHUTDOWN_SECONDS) for peer in peers))
        for task in self._background:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def describe(self) -> list[dict[str, object]]:
        """The plugins, in their order, for people."""
        return [
            {
                **dataclasses.asdict(peer.identity),
                "events": [name for name in EVENTS if peer.wants(name)],
                "since": peer.since,
                "synchronized": peer.joined,
            }
            for peer in self._peers
        ]

    async def ask_all(self, name: str, request: Message, answer: type[Message]) -> None:
        """Raises PluginRefused: those after it are not asked."""
        for peer in self.now:
            await peer.ask(name, request, answer)

    async def tell_all(
        self,
        name: str,
        request: Message,
        answer: type[Out],
        take: Callable[[Peer, Out], None] | None = None,
    ) -> None:
        """What has happened can't be refused: that is logged, and the others are told, too."""
        for peer in self.now:
            try:
                response = await peer.ask(name, request, answer)
                if response is not None and take is not None:
                    take(peer, response)
            except CriFault as error:
                log.warning("%s, which has happened", error)

    def background(self, what: str, work: Coroutine[None, None, None]) -> None:
        """Work that nobody waits for; it ends with us."""
        task = asyncio.create_task(work, name=what)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s", task.get_name(), exc_info=error)
