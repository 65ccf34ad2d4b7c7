"""One plugin, as the daemon sees it: it registers, is configured and synchronized, and is asked.

One request at a time, in the order in which they came. A plugin that doesn't answer in time, or
says what the protocol does not know, is dropped; requests that waited for it go on without it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from google.protobuf.message import Message

from cri import VERSION
from cri.errors import PluginRefused
from cri.nri.api import nri_pb2 as nri
from cri.nri.mux import PLUGIN_SERVICE
from cri.nri.trunk import Trunk
from runtime.ttrpc.aio import method
from runtime.ttrpc.errors import CallFailed, Code, ConversationEnded
from runtime.ttrpc.wire import MAX_DATA

log = logging.getLogger(__name__)

RUNTIME = "nri.pkg.api.v1alpha1.Runtime"
PLUGIN = "nri.pkg.api.v1alpha1.Plugin"
NRI_VERSION = "v0.12.2"
"""What the messages here are those of."""
BATCH = MAX_DATA - 65536
"""Bytes of one Synchronize."""
ALL_EVENTS = (1 << (nri.LAST - 1)) - 1
_MOST_WORDS = 1000
_NAME = re.compile(r"[a-zA-Z0-9_.+-]{1,253}")
_INDEX = re.compile(r"[0-9]{2}")
EVENTS = {
    "RunPodSandbox": nri.RUN_POD_SANDBOX,
    "UpdatePodSandbox": nri.UPDATE_POD_SANDBOX,
    "PostUpdatePodSandbox": nri.POST_UPDATE_POD_SANDBOX,
    "StopPodSandbox": nri.STOP_POD_SANDBOX,
    "RemovePodSandbox": nri.REMOVE_POD_SANDBOX,
    "CreateContainer": nri.CREATE_CONTAINER,
    "PostCreateContainer": nri.POST_CREATE_CONTAINER,
    "StartContainer": nri.START_CONTAINER,
    "PostStartContainer": nri.POST_START_CONTAINER,
    "UpdateContainer": nri.UPDATE_CONTAINER,
    "PostUpdateContainer": nri.POST_UPDATE_CONTAINER,
    "StopContainer": nri.STOP_CONTAINER,
    "RemoveContainer": nri.REMOVE_CONTAINER,
    "ValidateContainerAdjustment": nri.VALIDATE_CONTAINER_ADJUSTMENT,
}
"""The calls that a plugin gets if it has subscribed to them."""
_VALIDATE = "ValidateContainerAdjustment"
_BY_STATE_CHANGE = frozenset(  # as plugins of before 0.11 hear of them
    (
        *("RunPodSandbox", "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox"),
        *("PostCreateContainer", "StartContainer", "PostStartContainer"),
        *("PostUpdateContainer", "RemoveContainer"),
    )
)
Out = TypeVar("Out", bound=Message)
Unsolicited = Callable[
    ["Peer", nri.UpdateContainersRequest], Awaitable[nri.UpdateContainersResponse]
]


class CantJoin(Exception):
    """A plugin has not got as far as being one; the text says why."""


def quoted(text: str) -> str:
    """A plugin's words for logs and clients: one line, and no longer than gRPC's trailers take."""
    line = " ".join(text.split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line[:_MOST_WORDS])
    return f"{line} …" if len(text) > _MOST_WORDS else line


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. registration: to register, and to be synchronized; request: for each answer."""

    registration: float
    request: float


@dataclass(slots=True)
class Identity:
    """What a plugin is called. Given for one that we have started, else it says so itself."""

    index: str = ""
    name: str = ""
    config: str = ""
    pid: int = 0
    started_by_us: bool = False
    twin: bool = False  # of another that is connected under this name
    version: str = field(default="", init=False)  # of NRI, as the plugin says

    def __str__(self) -> str:
        title = f"{self.index or '??'}-{self.name or 'plugin'}"
        return f"{title}[{self.pid}]" if self.twin else title


class Peer:
    """Used from the loop's thread."""

    def __init__(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        identity: Identity,
        patience: Patience,
        unsolicited: Unsolicited,
    ) -> None:
        """unsolicited: what answers UpdateContainers."""
        self.identity = identity
        self.events = 0
        self._chosen = False
        self.since = time.time()
        self.joined = False
        self.gone = ""
        self.ended = asyncio.Event()
        self._patience = patience
        self._unsolicited = unsolicited
        self._turn = asyncio.Lock()
        self._registered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._old_events: set[str] = set()
        services = {
            RUNTIME: {
                "RegisterPlugin": method(nri.RegisterPluginRequest, self._register),
                "UpdateContainers": method(nri.UpdateContainersRequest, self._update),
            }
        }
        self._trunk = Trunk(*streams, asks=PLUGIN_SERVICE, services=services)

    def __str__(self) -> str:
        return str(self.identity)

    async def run(self) -> None:
        """Until it is gone, by whomever."""
        reason = await self._trunk.run()
        self.gone = self.gone or reason
        if not self._registered.done():
            self._registered.set_exception(CantJoin(self.gone))
            self._registered.exception()  # seen: nobody may be waiting
        self.ended.set()

    async def introduce(self) -> None:
        """Wait until it has registered, and configure it. Raises CantJoin."""
        try:
            async with asyncio.timeout(self._patience.registration):
                await self._registered
        except TimeoutError:
            text = f"it did not register within {self._patience.registration:g} s"
            raise CantJoin(text) from None
        request = nri.ConfigureRequest(
            config=self.identity.config,
            runtime_name="podwright",
            runtime_version=VERSION,
            registration_timeout=int(self._patience.registration * 1000),
            request_timeout=int(self._patience.request * 1000),
            NRI_version=NRI_VERSION,
        )
        answer = await self._introductory(
            "Configure", request, nri.ConfigureResponse, self._patience.request
        )
        if answer.events & ~ALL_EVENTS:
            raise CantJoin(f"it subscribes to events {answer.events:#x}, which nobody knows")
        self._chosen = answer.events != 0
        self.events = answer.events or ALL_EVENTS

    async def synchronize(
        self, pods: Iterable[nri.PodSandbox], containers: Iterable[nri.Container]
    ) -> list[nri.ContainerUpdate]:
        """Tell it what there is; what it wants changed. Raises CantJoin.

        Whatever is asked of it meanwhile waits. To be called in the same turn of the loop in which
        it is put among the plugins that are asked.
        """
        deadline = time.monotonic() + self._patience.registration
        async with self._turn:
            batches = list(_batches(pods, containers))
            for request in batches:
                left = max(deadline - time.monotonic(), 0.001)
                answer = await self._introductory(
                    "Synchronize", request, nri.SynchronizeResponse, left
                )
                if request.more and (answer.update or not answer.more):
                    raise CantJoin("it can't be synchronized in several messages")
            self.joined = True
            return list(answer.update)

    def wants(self, name: str) -> bool:
        """Whether it is there, and has subscribed to this call."""
        return not self.gone and bool(self.events & 1 << (EVENTS[name] - 1))

    async def ask(self, name: str, request: Message, answer: type[Out]) -> Out | None:
        """The answer to a call; None: it has not subscribed, doesn't know the call, or is gone.

        Raises PluginRefused.
        """
        if not self.wants(name):
            return None
        async with self._turn:
            if self.gone:
                return None
            try:
                return await self._ask(name, request, answer)
            except CallFailed as error:
                if error.code == Code.UNIMPLEMENTED and not self._must_know(name):
                    return answer() if name == _VALIDATE else None
                raise PluginRefused(str(self), name, quoted(error.text)) from None
            except TimeoutError:
                self.drop(f"it did not answer {name} within {self._patience.request:g} s")
            except ConversationEnded as error:
                self.drop(str(error))
            except ValueError as error:
                raise PluginRefused(str(self), name, f"can't be asked: {error}") from None
            return None

    def _must_know(self, name: str) -> bool:
        """One that has asked to be asked for its consent, by name, can't pass over it."""
        return name == _VALIDATE and self._chosen

    def drop(self, reason: str) -> None:
        """End it. The first reason counts."""
        if not self.gone:
            self.gone = reason
            log.warning("NRI plugin %s is dropped: %s", self, reason)
        self._trunk.close(reason)

    async def shut_down(self, seconds: float) -> None:
        """Tell it that we end."""
        if not self.gone and self.joined:
            try:
                await self._trunk.call(
                    (PLUGIN, "Shutdown"), nri.Empty(), nri.Empty, patience=seconds
                )
            except (CallFailed, ConversationEnded, TimeoutError) as error:
                log.debug("NRI plugin %s, told that we end: %s", self, error)
        self.gone = self.gone or "the daemon ends"
        self._trunk.close(self.gone)

    async def _ask(self, name: str, request: Message, answer: type[Out]) -> Out:
        if name not in self._old_events:
            try:
                return await self._call(name, request, answer, self._patience.request)
            except CallFailed as error:
                if error.code != Code.UNIMPLEMENTED or name not in _BY_STATE_CHANGE:
                    raise
                self._old_events.add(name)
        change = nri.StateChangeEvent(event=EVENTS[name])
        for part in ("pod", "container"):
            if part in request.DESCRIPTOR.fields_by_name and request.HasField(part):
                getattr(change, part).CopyFrom(getattr(request, part))
        await self._call("StateChange", change, nri.Empty, self._patience.request)
        return answer()

    async def _introductory(
        self, name: str, request: Message, answer: type[Out], seconds: float
    ) -> Out:
        """A call without whose answer it does not become a plugin."""
        try:
            return await self._call(name, request, answer, seconds)
        except TimeoutError:
            raise CantJoin(f"it did not answer {name} in time") from None
        except CallFailed as error:
            raise CantJoin(f"it answered {name}: {quoted(error.text)}") from None
        except ConversationEnded as error:
            raise CantJoin(f"{name}: {error}") from None

    async def _call(self, name: str, request: Message, answer: type[Out], seconds: float) -> Out:
        return await self._trunk.call((PLUGIN, name), request, answer, patience=seconds)

    async def _register(self, request: nri.RegisterPluginRequest) -> Message:
        if self._registered.done():
            raise CallFailed(Code.FAILED_PRECONDITION, "it has registered already")
        if not self.identity.started_by_us:
            if not _NAME.fullmatch(request.plugin_name):
                raise self._misnamed(f"plugin_name: {request.plugin_name!r}: letters, digits, _.+-")
            if not _INDEX.fullmatch(request.plugin_idx):
                raise self._misnamed(f"plugin_idx: {request.plugin_idx!r}: two digits")
            self.identity.name, self.identity.index = request.plugin_name, request.plugin_idx
        self.identity.version = quoted(request.NRI_version)
        self._registered.set_result(None)
        return nri.Empty()

    def _misnamed(self, text: str) -> CallFailed:
        self._registered.set_exception(CantJoin(text))
        self._registered.exception()
        return CallFailed(Code.INVALID_ARGUMENT, text)

    async def _update(self, request: nri.UpdateContainersRequest) -> Message:
        if not self.joined:
            raise CallFailed(Code.FAILED_PRECONDITION, "it has not been synchronized yet")
        return await self._unsolicited(self, request)


def _batches(
    pods: Iterable[nri.PodSandbox], containers: Iterable[nri.Container]
) -> Iterable[nri.SynchronizeRequest]:
    """Requests that fit in a message each; `more` in all but the last."""
    batch, size = nri.SynchronizeRequest(), 0
    everything: list[nri.PodSandbox | nri.Container] = [*pods, *containers]
    for one in everything:
        length = one.ByteSize() + 16
        if length > BATCH:
            log.warning("NRI: plugins are not told of %s: its %d bytes don't fit", one.id, length)
            continue
        if size + length > BATCH:
            batch.more = True
            yield batch
            batch, size = nri.SynchronizeRequest(), 0
        if isinstance(one, nri.PodSandbox):
            batch.pods.append(one)
        else:
            batch.containers.append(one)
        size += length
    yield batch
