"""What each RPC tells plugins and asks them, and what becomes of their wishes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from cri.errors import AdjustmentRefused, CriFault
from cri.nri import validator
from cri.nri.adjustments import Adjustments
from cri.nri.api import nri_pb2 as nri
from cri.nri.host import Host
from cri.nri.owners import Owners
from cri.nri.peer import Identity, Patience, Peer, quoted
from cri.nri.plugins import Plugins, Streams
from cri.nri.updates import Updates
from cri.plugin_config import NriConfig
from runtime.errors import RuntimeFault

log = logging.getLogger(__name__)


class Relay:
    """Used from the loop's thread."""

    def __init__(self, config: NriConfig, host: Host) -> None:
        patience = Patience(config.registration_timeout, config.request_timeout)
        self.plugins = Plugins(patience, host, self._unsolicited)
        self._validator = config.default_validator
        self._host = host
        self._stopped_pods: set[str] = set()
        self._endings: dict[str, asyncio.Event] = {}  # of containers, until plugins know of them

    @property
    def active(self) -> bool:
        """Whether anybody, be it only the configuration, wants to be asked."""
        return bool(self.plugins) or self._validator.enable

    async def join(self, streams: Streams, identity: Identity) -> Peer | None:
        """A plugin that has connected becomes one of us; None: it can't."""
        joined = await self.plugins.join(streams, identity)
        if joined is None:
            return None
        peer, wanted = joined
        updates = Updates(Owners())
        updates.add(str(peer), wanted)
        await self._update_others(updates)
        return peer

    # pods

    async def run_pod(self, pod: nri.PodSandbox) -> None:
        """Raises PluginRefused. The pod counts as under way until `settled`."""
        self.plugins.pods[pod.id] = pod
        request = nri.RunPodSandboxRequest(pod=pod)
        await self.plugins.ask_all("RunPodSandbox", request, nri.RunPodSandboxResponse)

    async def stop_pod(self, pod: nri.PodSandbox) -> None:
        """Tells them once, however often."""
        if pod.id in self._stopped_pods:
            return
        self._stopped_pods.add(pod.id)
        request = nri.StopPodSandboxRequest(pod=pod)
        await self.plugins.tell_all("StopPodSandbox", request, nri.StopPodSandboxResponse)

    async def remove_pod(self, pod: nri.PodSandbox) -> None:
        """Stops it for them first if need be."""
        self.plugins.leaving.add(pod.id)
        await self.stop_pod(pod)
        request = nri.RemovePodSandboxRequest(pod=pod)
        await self.plugins.tell_all("RemovePodSandbox", request, nri.RemovePodSandboxResponse)

    async def update_pod(self, request: nri.UpdatePodSandboxRequest) -> None:
        """Raises PluginRefused."""
        await self.plugins.ask_all("UpdatePodSandbox", request, nri.UpdatePodSandboxResponse)

    async def pod_updated(self, pod: nri.PodSandbox) -> None:
        """After it is done."""
        request, answer = nri.PostUpdatePodSandboxRequest(pod=pod), nri.PostUpdatePodSandboxResponse
        await self.plugins.tell_all("PostUpdatePodSandbox", request, answer)

    def settled(self, subject: str) -> None:
        """A pod or container is in the store, or will never be."""
        self.plugins.pods.pop(subject, None)
        self.plugins.containers.pop(subject, None)

    def forgotten(self, subject: str) -> None:
        """There is no such pod or container any more."""
        self.settled(subject)
        self.plugins.leaving.discard(subject)
        self._stopped_pods.discard(subject)

    # containers

    async def create_container(self, pod: nri.PodSandbox, container: nri.Container) -> Adjustments:
        """What plugins want of it; what they want of others is done. It counts as under way until
        `settled`.

        Raises PluginRefused, PluginsDisagree, AdjustmentImpossible, AdjustmentRefused.
        """
        self.plugins.containers[container.id] = container
        adjustments = Adjustments(nri.CreateContainerRequest(pod=pod, container=container))
        asked = self.plugins.now
        for peer in asked:
            response = await peer.ask(
                "CreateContainer", adjustments.request, nri.CreateContainerResponse
            )
            if response is not None:
                adjustments.add(str(peer), response)
                self.plugins.containers[container.id] = adjustments.request.container
        await self._validate(container, adjustments, [peer for peer in asked if not peer.gone])
        self._evict(adjustments.evictions)
        await self._update_others(adjustments.updates)
        return adjustments

    async def _validate(
        self, pristine: nri.Container, adjustments: Adjustments, asked: Iterable[Peer]
    ) -> None:
        if self._validator.enable:
            names = {peer.identity.name for peer in asked}
            validator.check(self._validator, adjustments, names)
        judges = [peer for peer in self.plugins.now if peer.wants("ValidateContainerAdjustment")]
        if not judges:
            return
        request = nri.ValidateContainerAdjustmentRequest(
            pod=adjustments.request.pod,
            container=pristine,
            adjust=adjustments.merged,
            update=(update for _, update in adjustments.updates.others()),
            owners=adjustments.owners.message(),
            plugins=(
                nri.PluginInstance(name=peer.identity.name, index=peer.identity.index)
                for peer in asked
            ),
        )
        answer = nri.ValidateContainerAdjustmentResponse
        verdicts = await asyncio.gather(
            *(peer.ask("ValidateContainerAdjustment", request, answer) for peer in judges)
        )
        for peer, verdict in zip(judges, verdicts, strict=True):
            if verdict is None:
                text = f"NRI plugin {peer} was to validate adjustments: {peer.gone}"
                raise AdjustmentRefused(text)
            if verdict.reject:
                text = f"NRI plugin {peer} rejects the adjustments: {quoted(verdict.reason)}"
                raise AdjustmentRefused(text)

    async def container_created(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """After it is done."""
        request = nri.PostCreateContainerRequest(pod=pod, container=container)
        answer = nri.PostCreateContainerResponse
        await self.plugins.tell_all("PostCreateContainer", request, answer)

    async def start_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """Raises PluginRefused."""
        request = nri.StartContainerRequest(pod=pod, container=container)
        await self.plugins.ask_all("StartContainer", request, nri.StartContainerResponse)

    async def container_started(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """After it is done."""
        request = nri.PostStartContainerRequest(pod=pod, container=container)
        answer = nri.PostStartContainerResponse
        await self.plugins.tell_all("PostStartContainer", request, answer)

    async def update_container(self, request: nri.UpdateContainerRequest) -> str:
        """Makes `linux_resources` of the request what plugins make of it; which plugins changed it.
        What they want of others is done.

        Raises PluginRefused, PluginsDisagree.
        """
        container_id = request.container.id
        updates = Updates(Owners())
        who: list[str] = []
        evictions: list[tuple[str, nri.ContainerEviction]] = []
        for peer in self.plugins.now:
            response = await peer.ask("UpdateContainer", request, nri.UpdateContainerResponse)
            if response is None:
                continue
            updates.add(str(peer), response.update)
            evictions += ((str(peer), one) for one in response.evict)
            if any(update.container_id == container_id for update in response.update):
                who.append(str(peer))
                updates.give(container_id, request.linux_resources)
        self._evict(evictions)
        await self._update_others(updates, but=container_id)
        return ", ".join(who)

    async def container_updated(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """After it is done."""
        request = nri.PostUpdateContainerRequest(pod=pod, container=container)
        answer = nri.PostUpdateContainerResponse
        await self.plugins.tell_all("PostUpdateContainer", request, answer)

    async def stop_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """It has ended, or will never run. What plugins want of others is done."""
        request = nri.StopContainerRequest(pod=pod, container=container)
        updates = Updates(Owners())

        def take(peer: Peer, response: nri.StopContainerResponse) -> None:
            updates.add(str(peer), response.update)

        await self.plugins.tell_all("StopContainer", request, nri.StopContainerResponse, take)
        await self._update_others(updates)

    def container_ended(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """The same in the background, for who can't wait."""
        self._endings[container.id] = told = asyncio.Event()

        async def tell() -> None:
            try:
                await self.stop_container(pod, container)
            finally:
                told.set()
                del self._endings[container.id]

        self.plugins.background(f"end of container {container.id}, told to NRI plugins", tell())

    async def told_of_end(self, container_id: str) -> None:
        """When plugins have been told of a container's end, if that has begun."""
        ending = self._endings.get(container_id)
        if ending is not None:
            await ending.wait()

    async def remove_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        """It is about to be forgotten."""
        self.plugins.leaving.add(container.id)
        request = nri.RemoveContainerRequest(pod=pod, container=container)
        await self.plugins.tell_all("RemoveContainer", request, nri.RemoveContainerResponse)

    async def _update_others(self, updates: Updates, but: str = "") -> None:
        for plugin, update in updates.others(but):
            try:
                await self._host.update(plugin, update)
            except (CriFault, RuntimeFault, OSError) as error:
                level = logging.DEBUG if update.ignore_failure else logging.WARNING
                text = "NRI plugin %s: update of container %s: %s"
                log.log(level, text, plugin, update.container_id, error)

    def _evict(self, evictions: Iterable[tuple[str, nri.ContainerEviction]]) -> None:
        """In the background: a container may take its time to end."""
        for plugin, eviction in evictions:
            what = f"eviction of container {eviction.container_id} by NRI plugin {plugin}"
            self.plugins.background(what, self._evict_one(plugin, eviction))

    async def _evict_one(self, plugin: str, eviction: nri.ContainerEviction) -> None:
        try:
            await self._host.evict(plugin, eviction)
        except (CriFault, RuntimeFault, OSError) as error:
            text = "NRI plugin %s: eviction of container %s: %s"
            log.warning(text, plugin, eviction.container_id, error)

    async def _unsolicited(
        self, peer: Peer, request: nri.UpdateContainersRequest
    ) -> nri.UpdateContainersResponse:
        """A plugin's own wish. What fails is in the answer, unless it may be ignored."""
        failed, errors = [], []
        for update in request.update:
            try:
                await self._host.update(str(peer), update)
            except (CriFault, RuntimeFault, OSError) as error:
                errors.append(f"of container {update.container_id}: {error}")
                if not update.ignore_failure:
                    failed.append(update)
        if errors:  # one line, however many a plugin may ask for in vain
            text = "NRI plugin %s: %d of its %d updates fail; the first, %s"
            log.warning(text, peer, len(errors), len(request.update), quoted(errors[0]))
        self._evict((str(peer), one) for one in request.evict)
        return nri.UpdateContainersResponse(failed=failed)
