"""For who writes NRI plugins in Python: a class with methods, and `run`.

    class Pinner(Plugin):
        async def create_container(self, pod, container):
            adjustment = nri.ContainerAdjustment()
            adjustment.linux.resources.cpu.cpus = "0-1"
            return nri.CreateContainerResponse(adjust=adjustment)

    run(Pinner("pinner", "50"))

A plugin is told of what it has a method for, and of nothing else. Raising Refuse refuses a request,
with that text. It connects to the runtime's socket, or, started by the runtime, uses what that has
given it. Works with any runtime that has NRI, and loads no gRPC.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cri.nri.api import nri_pb2 as nri
from cri.nri.mux import RUNTIME_SERVICE
from cri.nri.trunk import Trunk
from runtime.ttrpc.aio import Method, method
from runtime.ttrpc.errors import CallFailed, Code, ConversationEnded

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Plugin", "Refuse", "nri", "run"]

SOCKET = "/var/run/nri/nri.sock"
NRI_VERSION = "v0.12.2"
_RUNTIME, _PLUGIN = "nri.pkg.api.v1alpha1.Runtime", "nri.pkg.api.v1alpha1.Plugin"
_REGISTRATION_SECONDS = 5.0


class Refuse(Exception):
    """Why a request is not to be carried out."""


class Plugin:
    """Override what you want to be told of; each method may be left out.

    name: letters, digits and _.+-; index: two digits, plugins are asked in their order. Both are
    the runtime's to say if it has started the plugin.
    """

    def __init__(self, name: str = "", index: str = "", *, path: str = SOCKET) -> None:
        self.name = name or os.environ.get("NRI_PLUGIN_NAME", "")
        self.index = index or os.environ.get("NRI_PLUGIN_IDX", "")
        self.path = path
        self.request_timeout = 2.0
        self._trunk: Trunk | None = None

    # to be overridden

    async def configure(self, config: str, runtime: str, version: str) -> None:
        """config: from the runtime's configuration directory, for plugins that it starts."""

    async def synchronize(
        self, pods: list[nri.PodSandbox], containers: list[nri.Container]
    ) -> list[nri.ContainerUpdate]:
        """What there is; what you want changed."""
        del pods, containers
        return []

    async def shutdown(self) -> None:
        """The runtime ends; the pods do not."""

    async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        """A pod is ready but for you."""

    async def update_pod_sandbox(self, request: nri.UpdatePodSandboxRequest) -> None:
        """Its resources are about to change."""

    async def post_update_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        """They have changed."""

    async def stop_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        """Its containers have ended."""

    async def remove_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        """It is about to be forgotten."""

    async def create_container(
        self, pod: nri.PodSandbox, container: nri.Container
    ) -> nri.CreateContainerResponse | None:
        """Adjust it, update others, evict some."""

    async def post_create_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """It is created."""

    async def start_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """It is about to run."""

    async def post_start_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """It runs."""

    async def update_container(
        self, pod: nri.PodSandbox, container: nri.Container, resources: nri.LinuxResources
    ) -> nri.UpdateContainerResponse | None:
        """Its resources are about to change: an update of it in the answer changes how."""

    async def post_update_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """They have changed."""

    async def stop_container(
        self, pod: nri.PodSandbox, container: nri.Container
    ) -> nri.StopContainerResponse | None:
        """It has ended, or will never run; update others."""

    async def remove_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """It is about to be forgotten."""

    async def validate_container_adjustment(
        self, request: nri.ValidateContainerAdjustmentRequest
    ) -> None:
        """What all plugins together want of a container. Refuse it, or don't."""

    # to be called

    async def update_containers(
        self, updates: list[nri.ContainerUpdate], evict: list[nri.ContainerEviction] | None = None
    ) -> list[nri.ContainerUpdate]:
        """Change containers, or end them, without having been asked; those that failed.

        Also from within a method that is about the same container, if that exists by then.
        """
        if self._trunk is None:
            raise ConversationEnded("not connected")
        request = nri.UpdateContainersRequest(update=updates, evict=evict or [])
        answer = await self._trunk.call(
            (_RUNTIME, "UpdateContainers"),
            request,
            nri.UpdateContainersResponse,
            patience=_REGISTRATION_SECONDS,
        )
        return list(answer.failed)

    async def serve(self) -> str:
        """Connect, register, and be a plugin until the connection ends; why it did.

        Raises OSError: nobody is there; CallFailed: the runtime does not want it.
        """
        reader, writer = await self._connect()
        calls = {_PLUGIN: _calls(self)}
        trunk = self._trunk = Trunk(reader, writer, asks=RUNTIME_SERVICE, services=calls)
        running = asyncio.create_task(trunk.run())
        request = nri.RegisterPluginRequest(
            plugin_name=self.name, plugin_idx=self.index, NRI_version=NRI_VERSION
        )
        try:
            await trunk.call(
                (_RUNTIME, "RegisterPlugin"), request, nri.Empty, patience=_REGISTRATION_SECONDS
            )
            return await running
        finally:
            self._trunk = None
            trunk.close("the plugin ends")
            await asyncio.wait([running])

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        given = os.environ.get("NRI_PLUGIN_SOCKET")
        if given is None:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection(sock=socket.socket(fileno=int(given)))


def run(plugin: Plugin) -> None:
    """Be a plugin until the connection ends. Without a name and index: those of the program."""
    index, _, name = Path(sys.argv[0]).name.partition("-")
    plugin.name, plugin.index = plugin.name or name, plugin.index or index
    asyncio.run(plugin.serve())


_ABOUT_A_POD = ("RunPodSandbox", "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox")
_ABOUT_A_CONTAINER = (
    *("CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer"),
    *("PostUpdateContainer", "StopContainer", "RemoveContainer"),
)
_EVENTS = {  # the calls that are subscribed to: method and bit
    nri.Event.Name(event).title().replace("_", ""): event
    for event in nri.Event.values()
    if nri.UNKNOWN < event < nri.LAST
}


def _method_name(call: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", call).lower()


def _events(plugin: Plugin) -> int:
    """The bits of what it has methods for."""
    return sum(
        1 << (event - 1)
        for call, event in _EVENTS.items()
        if getattr(type(plugin), _method_name(call)) is not getattr(Plugin, _method_name(call))
    )


def _calls(plugin: Plugin) -> Mapping[str, Method]:
    """What the runtime may call, by name."""
    joining = _Joining(plugin)
    calls: dict[str, Method] = {
        "Configure": method(nri.ConfigureRequest, joining.configure),
        "Synchronize": method(nri.SynchronizeRequest, joining.synchronize),
        "Shutdown": method(nri.Empty, lambda _: _done(plugin.shutdown(), nri.Empty)),
        "UpdatePodSandbox": method(
            nri.UpdatePodSandboxRequest,
            lambda request: _done(plugin.update_pod_sandbox(request), nri.UpdatePodSandboxResponse),
        ),
        "UpdateContainer": method(
            nri.UpdateContainerRequest,
            lambda request: _done(
                plugin.update_container(request.pod, request.container, request.linux_resources),
                nri.UpdateContainerResponse,
            ),
        ),
        "ValidateContainerAdjustment": method(
            nri.ValidateContainerAdjustmentRequest, lambda request: _verdict(plugin, request)
        ),
    }
    calls |= {name: _about(plugin, name, ("pod",)) for name in _ABOUT_A_POD}
    calls |= {name: _about(plugin, name, ("pod", "container")) for name in _ABOUT_A_CONTAINER}
    return calls


def _about(plugin: Plugin, call: str, fields: tuple[str, ...]) -> Method:
    asked, answer = getattr(nri, f"{call}Request"), getattr(nri, f"{call}Response")
    told = getattr(plugin, _method_name(call))
    return method(
        asked, lambda request: _done(told(*(getattr(request, name) for name in fields)), answer)
    )


async def _done(work: Awaitable[Message | None], answer: type[Message]) -> Message:
    try:
        return await work or answer()
    except Refuse as error:
        raise CallFailed(Code.UNKNOWN, str(error)) from None


async def _verdict(plugin: Plugin, request: nri.ValidateContainerAdjustmentRequest) -> Message:
    try:
        await plugin.validate_container_adjustment(request)
    except Refuse as error:
        return nri.ValidateContainerAdjustmentResponse(reject=True, reason=str(error))
    return nri.ValidateContainerAdjustmentResponse()


class _Joining:
    """The two calls by which a plugin becomes one."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._pods: list[nri.PodSandbox] = []
        self._containers: list[nri.Container] = []

    async def configure(self, request: nri.ConfigureRequest) -> Message:
        self._plugin.request_timeout = request.request_timeout / 1000
        told = self._plugin.configure(request.config, request.runtime_name, request.runtime_version)
        await _done(told, nri.ConfigureResponse)
        return nri.ConfigureResponse(events=_events(self._plugin))

    async def synchronize(self, request: nri.SynchronizeRequest) -> Message:
        """A long state comes in several messages."""
        self._pods += request.pods
        self._containers += request.containers
        if request.more:
            return nri.SynchronizeResponse(more=True)
        pods, containers, self._pods, self._containers = self._pods, self._containers, [], []
        return nri.SynchronizeResponse(update=await self._plugin.synchronize(pods, containers))
