"""What changes of a container's resources, what stays, and where it is written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from cri.errors import ContainerNotFound, InvalidRequest, SandboxNotFound, StateNotWritten
from cri.rpc.container_update import update_container_resources
from cri.rpc.sandbox_status import pod_sandbox_status
from cri.rpc.sandbox_update import update_pod_sandbox_resources
from cri.specgen import resources
from cri.specgen.update import merged, respecified, touched
from cri.store.container import Container
from cri.store.store import Store
from cri.tests.pods import FOREVER, Node
from cri.tests.records import container
from runtime.cgroup.errors import CgroupRefused
from runtime.errors import InvalidSpec
from runtime.spec import (
    Cpu,
    DeviceRule,
    HugepageLimit,
    Memory,
    Pids,
    Process,
    Resources,
    Spec,
)
from runtime.spec import Linux as Runtime

MIB = 1 << 20
Linux = api.LinuxContainerResources
OLD = Linux(
    cpu_period=100_000,
    cpu_quota=50_000,
    cpu_shares=512,
    memory_limit_in_bytes=64 * MIB,
    oom_score_adj=100,
    cpuset_cpus="0",
    hugepage_limits=[api.HugepageLimit(page_size="2MB", limit=4 * MIB)],
    unified={"memory.high": "1", "memory.low": "2"},
)


def test_what_is_not_asked_for_stays() -> None:
    assert merged(OLD, Linux()) == OLD
    assert touched(Linux(), OLD) == Linux()


def test_what_is_asked_for_counts() -> None:
    asked = Linux(
        cpu_quota=-1,
        oom_score_adj=-5,
        cpuset_mems="0",
        hugepage_limits=[
            api.HugepageLimit(page_size="2MB", limit=0),
            api.HugepageLimit(page_size="1GB", limit=1 << 30),
        ],
        unified={"memory.low": "3"},
    )
    new = merged(OLD, asked)
    assert (new.cpu_quota, new.cpu_period, new.oom_score_adj) == (-1, 100_000, -5)
    assert (new.cpuset_cpus, new.cpuset_mems) == ("0", "0")
    assert [(one.page_size, one.limit) for one in new.hugepage_limits] == [
        ("2MB", 0),
        ("1GB", 1 << 30),
    ]
    assert dict(new.unified) == {"memory.high": "1", "memory.low": "3"}
    assert touched(asked, new) == Linux(
        cpu_quota=-1,
        cpu_period=100_000,
        oom_score_adj=-5,
        cpuset_mems="0",
        hugepage_limits=asked.hugepage_limits,
        unified={"memory.low": "3"},
    )


@pytest.mark.parametrize(
    ("old", "asked", "memory"),
    [
        ((64, 0), (128, 0), Memory(limit=128, swap=128)),
        ((64, 64), (128, 0), Memory(limit=128, swap=128)),
        ((64, 64), (32, 0), Memory(limit=32, swap=32)),
        ((64, 96), (80, 0), Memory(limit=80, swap=96)),
        ((64, -1), (128, 0), Memory(limit=128, swap=-1)),
        ((64, 96), (0, 80), Memory(limit=64, swap=80)),
        ((0, 0), (64, 0), Memory(limit=64, swap=64)),
        ((64, 0), (-1, 0), Memory(limit=-1, swap=-1)),
        ((64, 0), (128, 256), Memory(limit=128, swap=256)),
    ],
)
def test_a_container_without_swap_gets_none_by_a_new_limit(
    old: tuple[int, int], asked: tuple[int, int], memory: Memory
) -> None:
    before, wish = (
        Linux(memory_limit_in_bytes=limit, memory_swap_limit_in_bytes=swap)
        for limit, swap in (old, asked)
    )
    part = touched(wish, merged(before, wish))
    assert resources.translated(part, "linux").memory == memory


def test_a_limit_above_the_old_limit_of_both_says_what_is_missing() -> None:
    old = Linux(memory_limit_in_bytes=64, memory_swap_limit_in_bytes=96)
    new = merged(old, Linux(memory_limit_in_bytes=128))
    with pytest.raises(InvalidRequest, match=r"linux.memory_swap_limit_in_bytes: 96 is below"):
        resources.translated(new, "linux")


def test_a_new_spec_keeps_what_the_request_never_said() -> None:
    base = Resources(
        devices=(DeviceRule(allow=False),),
        memory=Memory(limit=512 * MIB, reservation=MIB, swap=-1),
        cpu=Cpu(shares=7, quota=9_000, period=90_000, mems="0"),
        pids=Pids(33),
        hugepage_limits=(HugepageLimit("1GB", 0), HugepageLimit("2MB", 5)),
        unified={"io.weight": "3", "memory.low": "5"},
    )
    spec = Spec(Process(("x",), oom_score_adj=444), linux=Runtime(resources=base))
    asked = Linux(memory_limit_in_bytes=64 * MIB, cpu_shares=100, unified={"memory.low": "6"},
                  hugepage_limits=[api.HugepageLimit(page_size="2MB", limit=6)])  # fmt: skip
    made = respecified(spec, touched(asked, merged(Linux(), asked)), -1000)
    assert made.process.oom_score_adj == 444
    assert made.linux.resources == Resources(
        devices=base.devices,
        memory=Memory(limit=64 * MIB, reservation=MIB, swap=64 * MIB),
        cpu=Cpu(shares=100, quota=9_000, period=90_000, mems="0"),
        pids=Pids(33),
        hugepage_limits=(HugepageLimit("2MB", 6), HugepageLimit("1GB", 0)),
        unified={"io.weight": "3", "memory.low": "6"},
    )
    time = touched(Linux(cpu_quota=-1), merged(Linux(), Linux(cpu_quota=-1)))
    assert respecified(spec, time, 0).linux.resources.cpu == Cpu(shares=7, quota=-1, mems="0")
    assert respecified(spec, Linux(oom_score_adj=-5), 0).process.oom_score_adj == 0


def test_a_score_out_of_range_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"linux\.oom_score_adj: 1001"):
        merged(OLD, Linux(oom_score_adj=1001))


def test_an_amended_config_survives_and_followers_see_both(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "state.db")
    one = store.containers.add(container("1" * 64))
    seen: list[tuple[Container | None, Container | None]] = []
    store.containers.follow(lambda old, new: seen.append((old, new)))
    new = store.containers.amend(
        one.id, lambda old: old.with_resources(api.LinuxContainerResources(cpu_shares=5))
    )
    store.containers.remove(one.id)
    again = store.containers.add(new)
    assert seen == [(one, new), (new, None), (None, new)]
    assert seen[0][0] is one
    assert one.config.linux.resources.cpu_shares == 0
    assert store.containers.of_sandbox("1" * 64) == (again,)
    store.close()
    opened = Store.open(tmp_path / "state.db")
    assert opened.containers.all() == (new,)
    opened.close()


async def ask(node: Node, container_id: str, **fields: object) -> None:
    request = api.UpdateContainerResourcesRequest(
        container_id=container_id,
        linux=Linux(**fields),  # type: ignore[arg-type]  # by name
    )
    await update_container_resources(node.services, request)


async def told(node: Node, container_id: str) -> Linux:
    return (await node.status(container_id)).resources.linux


def score(node: Node, container_id: str) -> int:
    pid = node.services.store.containers.get(container_id).status.pid
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.root
async def test_a_created_container_starts_with_its_new_limits(node: Node) -> None:
    container_id = await node.create(await node.run(), *FOREVER)
    await ask(node, container_id, oom_score_adj=300, memory_limit_in_bytes=64 * MIB)
    spec = node.services.specs[container_id]
    assert spec.linux.resources.memory == Memory(limit=64 * MIB, swap=64 * MIB)
    assert spec.linux.resources.devices
    await node.start_one(container_id)
    assert score(node, container_id) == 300
    assert (await told(node, container_id)).memory_limit_in_bytes == 64 * MIB


@pytest.mark.root
async def test_a_created_container_starts_with_them_in_the_next_daemon_too(node: Node) -> None:
    container_id = await node.create(await node.run(), *FOREVER)
    await ask(node, container_id, oom_score_adj=300, cpu_shares=77)
    await node.restart()
    await node.start_one(container_id)
    assert score(node, container_id) == 300
    assert node.services.specs[container_id].linux.resources.cpu == Cpu(shares=77)


@pytest.mark.root
async def test_of_an_exited_container_they_are_only_remembered(node: Node) -> None:
    container_id = await node.running(await node.run(), "true")
    await node.ended(container_id)
    await ask(node, container_id, cpu_shares=77)
    await ask(node, container_id, cpu_quota=5000)
    await node.restart()
    found = await told(node, container_id)
    assert (found.cpu_shares, found.cpu_quota) == (77, 5000)


@pytest.mark.root
async def test_what_can_t_be_written_down_is_put_back(node: Node) -> None:
    container_id = await node.running(await node.run(), *FOREVER)
    await ask(node, container_id, oom_score_adj=300)
    node.let_write(allowed=False)
    with pytest.raises(StateNotWritten):
        await ask(node, container_id, oom_score_adj=400)
    assert score(node, container_id) == 300
    assert (await told(node, container_id)).oom_score_adj == 300


@pytest.mark.root
async def test_what_is_refused_changes_neither_process_nor_record(node: Node) -> None:
    container_id = await node.running(await node.run(), *FOREVER)
    await ask(node, container_id, oom_score_adj=300, cpu_shares=100)
    spec = node.services.specs[container_id]
    with pytest.raises(CgroupRefused, match="4095"):
        await ask(node, container_id, oom_score_adj=400, cpu_shares=200, cpuset_cpus="4095")
    with pytest.raises(InvalidSpec, match=r"cpu\.quota: 1 µs"):
        await ask(node, container_id, oom_score_adj=400, cpu_quota=1)
    assert score(node, container_id) == 300
    assert await told(node, container_id) == Linux(oom_score_adj=300, cpu_shares=100)
    assert node.services.specs[container_id] is spec


@pytest.mark.root
async def test_nobody_is_asked_for_nothing(node: Node) -> None:
    container_id = await node.running(await node.run(), *FOREVER)
    request = api.UpdateContainerResourcesRequest(container_id=container_id)
    await update_container_resources(node.services, request)
    with pytest.raises(ContainerNotFound):
        await ask(node, "f" * 64, cpu_shares=5)


@pytest.mark.root
async def test_a_pods_resources_are_remembered_and_told(node: Node) -> None:
    sandbox_id = await node.run()
    request = api.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id=sandbox_id, overhead=Linux(cpu_shares=5), resources=Linux(cpu_shares=7)
    )
    await update_pod_sandbox_resources(node.services, request)
    request.ClearField("overhead")
    request.resources.cpu_shares = 8
    await update_pod_sandbox_resources(node.services, request)
    await node.restart()
    asked = api.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
    info = (await pod_sandbox_status(node.services, asked)).info["info"]
    assert '"overhead": {"cpu_shares": "5"}, "resources": {"cpu_shares": "8"}' in info
    with pytest.raises(SandboxNotFound):
        await update_pod_sandbox_resources(
            node.services, api.UpdatePodSandboxResourcesRequest(pod_sandbox_id="f" * 64)
        )
