"""What plugins want of containers, and who has the last word: over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from cri.errors import AdjustmentRefused, PluginsDisagree
from cri.nri.api import nri_pb2 as nri
from cri.nri.kit import Plugin, Refuse
from cri.plugin_config import NriConfig, ValidatorConfig
from cri.tests.nri_stage import POD, Scribe, Wishing, container, stage, variable


async def test_two_plugins_in_conflict_are_both_named() -> None:
    async with stage() as on:
        assert await on.connect(Wishing("a", "10", variable("X")))
        assert await on.connect(Wishing("b", "20", variable("X")))
        with pytest.raises(PluginsDisagree, match="10-a and 20-b both tried to set Env X"):
            await on.relay.create_container(POD, container("c1"))


async def test_others_are_updated_and_evicted() -> None:
    wish = nri.CreateContainerResponse()
    wish.update.add(container_id="c0")
    wish.update.add(container_id="unknown")  # logged, and no reason to fail
    wish.evict.add(container_id="c0", reason="too loud")
    async with stage() as on:
        on.store.known = [container("c0")]
        assert await on.connect(Wishing("a", "10", wish))
        await on.relay.create_container(POD, container("c1"))
        assert [(who, one.container_id) for who, one in on.store.updated] == [("10-a", "c0")]
        await asyncio.sleep(0)
        assert on.store.evicted == ["10-a: c0: too loud"]


async def test_an_update_is_what_plugins_make_of_it() -> None:
    class Halving(Plugin):
        async def update_container(
            self, pod: nri.PodSandbox, container: nri.Container, resources: nri.LinuxResources
        ) -> nri.UpdateContainerResponse | None:
            response = nri.UpdateContainerResponse()
            own = response.update.add(container_id=container.id)
            own.linux.resources.memory.limit.value = resources.memory.limit.value // 2
            response.update.add(container_id="c0")
            return response

    async with stage() as on:
        on.store.known = [container("c0")]
        assert await on.connect(Halving("half", "10"))
        request = nri.UpdateContainerRequest(pod=POD, container=container("c1"))
        request.linux_resources.memory.limit.value = 100
        request.linux_resources.cpu.shares.value = 7
        assert await on.relay.update_container(request) == "10-half"
        assert request.linux_resources.memory.limit.value == 50
        assert request.linux_resources.cpu.shares.value == 7
        assert [one.container_id for _, one in on.store.updated] == ["c0"]


async def test_a_plugin_updates_containers_unasked_and_hears_what_failed() -> None:
    async with stage() as on:
        on.store.known = [container("c0")]
        one = Scribe()
        assert await on.connect(one)
        wishes = [
            nri.ContainerUpdate(container_id="c0"),
            nri.ContainerUpdate(container_id="unknown"),
            nri.ContainerUpdate(container_id="unknown too", ignore_failure=True),
        ]
        failed = await one.update_containers(wishes, [nri.ContainerEviction(container_id="c0")])
        assert [update.container_id for update in failed] == ["unknown"]
        assert [update.container_id for _, update in on.store.updated] == ["c0"]
        await asyncio.sleep(0.01)
        assert on.store.evicted == ["10-scribe: c0: "]


async def test_a_validator_sees_all_and_has_the_last_word() -> None:
    seen: list[nri.ValidateContainerAdjustmentRequest] = []

    class Judge(Plugin):
        async def validate_container_adjustment(
            self, request: nri.ValidateContainerAdjustmentRequest
        ) -> None:
            seen.append(request)
            raise Refuse("no variables today")

    async with stage() as on:
        assert await on.connect(Wishing("a", "50", variable("X")))
        assert await on.connect(Judge("judge", "10"))
        text = "plugin 10-judge rejects the adjustments: no variables today"
        with pytest.raises(AdjustmentRefused, match=text):
            await on.relay.create_container(POD, container("c1", env=["A=1"]))
    (request,) = seen
    assert [pair.key for pair in request.adjust.env] == ["X"]
    assert list(request.container.env) == ["A=1"]
    assert request.owners.owners["c1"].compound[nri.Env].owners["X"] == "50-a"
    assert {one.name for one in request.plugins} == {"a", "judge"}


async def test_a_validator_that_fails_has_not_agreed() -> None:
    class Slow(Plugin):
        async def validate_container_adjustment(
            self, request: nri.ValidateContainerAdjustmentRequest
        ) -> None:
            await asyncio.sleep(60)

    async with stage() as on:
        assert await on.connect(Slow("judge", "10"))
        with pytest.raises(AdjustmentRefused, match=r"10-judge was to validate.*within 1 s"):
            await on.relay.create_container(POD, container("c1"))


async def test_without_a_required_plugin_nothing_is_created() -> None:
    required = ValidatorConfig(enable=True, required_plugins=("needed",))
    config = NriConfig(registration_timeout=1, request_timeout=1, default_validator=required)
    async with stage(config) as on:
        assert on.relay.active
        with pytest.raises(AdjustmentRefused, match="not connected: needed"):
            await on.relay.create_container(POD, container("c1"))
        assert await on.connect(Scribe("needed", "10"))
        await on.relay.create_container(POD, container("c1"))
