"""Plugins that join, are asked in order, and go: the daemon's side, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from cri.errors import PluginRefused
from cri.nri import peer
from cri.nri.api import nri_pb2 as nri
from cri.nri.kit import Plugin, Refuse
from cri.nri.mux import RUNTIME_SERVICE
from cri.nri.trunk import Trunk
from cri.tests.nri_stage import POD, Scribe, container, stage
from runtime.ttrpc.aio import method

if TYPE_CHECKING:
    from google.protobuf.message import Message


async def test_a_plugin_hears_of_what_it_has_methods_for_in_order() -> None:
    async with stage() as on:
        one = Scribe()
        assert await on.connect(one)
        assert one.synced == ["s1"]
        await on.relay.run_pod(POD)
        await on.relay.create_container(POD, container("c1"))
        await on.relay.start_container(POD, container("c1"))  # it has no method for this
        await on.relay.stop_container(POD, container("c1"))
        await on.relay.stop_pod(POD)
        await on.relay.stop_pod(POD)  # told once
        await on.relay.remove_pod(POD)
        assert one.heard == ["run s1", "create c1", "end c1", "stop s1", "remove s1"]
        (told,) = on.relay.plugins.describe()
        assert told["events"] == [
            *("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"),
            *("CreateContainer", "StopContainer"),
        ]


async def test_plugins_are_asked_by_index_and_then_by_name() -> None:
    asked: list[str] = []

    class Asked(Plugin):
        async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            asked.append(self.name)

    async with stage() as on:
        for name, index in (("c", "90"), ("b", "10"), ("a", "10"), ("d", "00")):
            assert await on.connect(Asked(name, index))
        await on.relay.run_pod(POD)
    assert asked == ["d", "a", "b", "c"]


async def test_who_refuses_is_named_and_those_after_it_are_not_asked() -> None:
    class Refusing(Plugin):
        async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            raise Refuse("no room")

    async with stage() as on:
        after = Scribe(index="50")
        assert await on.connect(after)
        assert await on.connect(Refusing("guard", "20"))
        with pytest.raises(PluginRefused, match=r"plugin 20-guard refuses RunPodSandbox: no room"):
            await on.relay.run_pod(POD)
        assert after.heard == []
        assert len(on.relay.plugins.now) == 2


async def test_what_has_happened_is_told_to_all_though_one_refuses() -> None:
    class Refusing(Plugin):
        async def stop_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            raise Refuse("never")

    async with stage() as on:
        after = Scribe(index="50")
        assert await on.connect(after)
        assert await on.connect(Refusing("guard", "20"))
        await on.relay.stop_pod(POD)
        assert after.heard == ["stop s1"]


async def test_a_plugin_that_is_too_slow_is_dropped_and_the_request_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Slow(Plugin):
        async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            await asyncio.sleep(60)

    async with stage() as on:
        after = Scribe(index="50")
        assert await on.connect(after)
        assert await on.connect(Slow("slow", "20"))
        async with asyncio.timeout(3):
            await asyncio.gather(*(on.relay.run_pod(POD) for _ in range(20)))
        assert after.heard == ["run s1"] * 20
        assert [str(one) for one in on.relay.plugins.now] == ["50-scribe"]
    assert (
        "NRI plugin 20-slow is dropped: it did not answer RunPodSandbox within 1 s" in caplog.text
    )


async def test_a_plugin_is_asked_one_thing_at_a_time() -> None:
    class Watchful(Plugin):
        inside = most = 0

        async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0)
            self.inside -= 1

    async with stage() as on:
        one = Watchful("w", "00")
        assert await on.connect(one)
        await asyncio.gather(*(on.relay.run_pod(POD) for _ in range(10)))
        assert one.most == 1


async def test_what_is_created_while_a_plugin_joins_reaches_it_once() -> None:
    """One under way is in what it is told; one that begins meanwhile is asked afterwards."""
    going = asyncio.Event()
    release = asyncio.Event()

    class Holding(Scribe):
        async def create_container(
            self, pod: nri.PodSandbox, container: nri.Container
        ) -> nri.CreateContainerResponse | None:
            await super().create_container(pod, container)
            if container.id == "early":
                going.set()
                await release.wait()
            return None

    class Late(Scribe):
        async def synchronize(
            self, pods: list[nri.PodSandbox], containers: list[nri.Container]
        ) -> list[nri.ContainerUpdate]:
            await super().synchronize(pods, containers)
            late = asyncio.create_task(on.relay.create_container(POD, container("late")))
            creations.append(late)
            release.set()
            await asyncio.sleep(0.05)
            assert self.heard == []
            return []

    creations: list[asyncio.Task[object]] = []
    async with stage() as on:
        first, late = Holding("first", "00"), Late("late", "10")
        assert await on.connect(first)
        early: asyncio.Task[object] = asyncio.create_task(
            on.relay.create_container(POD, container("early"))
        )
        await going.wait()
        assert await on.connect(late)
        await asyncio.gather(early, *creations)
        assert late.synced == ["s1", "early"]
        assert late.heard == ["create late"]
        assert first.heard == ["create early", "create late"]


async def test_a_long_state_comes_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "BATCH", 4000)
    async with stage() as on:
        on.store.known = [container(f"c{number}", args=["x" * 500]) for number in range(50)]
        on.store.known.append(container("huge", args=["x" * 5000]))
        one = Scribe()
        assert await on.connect(one)
        assert one.synced == ["s1", *(f"c{number}" for number in range(50))]


async def test_old_plugins_hear_of_events_by_state_change() -> None:
    """They have no method for most of today's calls, and subscribe to everything by a zero."""
    heard: list[tuple[int, str, str]] = []

    async def configure(_: nri.ConfigureRequest) -> Message:
        return nri.ConfigureResponse()

    async def synchronize(_: nri.SynchronizeRequest) -> Message:
        return nri.SynchronizeResponse()

    async def change(event: nri.StateChangeEvent) -> Message:
        heard.append((event.event, event.pod.id, event.container.id))
        return nri.Empty()

    calls = {
        "Configure": method(nri.ConfigureRequest, configure),
        "Synchronize": method(nri.SynchronizeRequest, synchronize),
        "StateChange": method(nri.StateChangeEvent, change),
    }
    ours, theirs = socket.socketpair()
    streams = await asyncio.open_connection(sock=theirs)
    old = Trunk(*streams, asks=RUNTIME_SERVICE, services={peer.PLUGIN: calls})
    async with stage() as on:
        running = asyncio.create_task(old.run())
        request = nri.RegisterPluginRequest(plugin_name="old", plugin_idx="10")
        register = old.call((peer.RUNTIME, "RegisterPlugin"), request, nri.Empty, patience=1)
        _, joined = await asyncio.gather(register, on.join(ours))
        assert joined
        await on.relay.run_pod(POD)
        await on.relay.run_pod(POD)
        await on.relay.create_container(POD, container("c1"))  # for which there is no event
        await on.relay.container_started(POD, container("c1"))
    await running
    assert heard == [
        (nri.RUN_POD_SANDBOX, "s1", ""),
        (nri.RUN_POD_SANDBOX, "s1", ""),
        (nri.POST_START_CONTAINER, "s1", "c1"),
    ]


async def test_a_plugin_is_told_that_the_daemon_ends() -> None:
    told: list[str] = []

    class Told(Plugin):
        async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None: ...

        async def shutdown(self) -> None:
            told.append("shutdown")

    async with stage() as on:
        assert await on.connect(Told("told", "10"))
    assert told == ["shutdown"]


async def test_who_joins_while_something_is_removed_is_not_told_of_it() -> None:
    joined = asyncio.Event()

    class Holding(Plugin):
        async def remove_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
            await joined.wait()

    async with stage() as on:
        on.store.known = [container("c1"), container("c2")]
        assert await on.connect(Holding("first", "00"))
        removing = asyncio.create_task(on.relay.remove_container(POD, container("c1")))
        await asyncio.sleep(0)
        late = Scribe("late")
        assert await on.connect(late)
        assert late.synced == ["s1", "c2"]
        joined.set()
        await removing
        on.relay.forgotten("c1")
        assert on.relay.plugins.leaving == set()
