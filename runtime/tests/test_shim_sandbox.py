"""Pods whose sandbox a shim makes, by containerd's sandbox service, under a real monitor."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.errors import InitFailed
from runtime.handlers.sandboxes import ShimSandbox
from runtime.handlers.shim_v2 import ShimV2
from runtime.lifecycle import ContainerRequest
from runtime.tests.node import Node, lifetime, until
from runtime.tests.sandbox_shim import program
from runtime.tests.shims import POD, SHIM, alive, shims

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not SHIM, reason="needs the shim: `apt-get install containerd`"),
]


class ShimNode(Node):
    """A node with one handler, "box". told: where its shim writes down what it is asked."""

    def __init__(self, path: Path, binary: str) -> None:
        super().__init__(path, {"box": ShimV2("box", binary, sandbox="api")})
        self.told = path / "box"

    async def make(self, sandbox_id: str = POD) -> None:
        made = self.sandbox(sandbox_id)
        config = b"\x0a\x05\x0a\x03pod"
        await self.runtime.sandboxes.make(ShimSandbox(made, "box", config, {"org.example/a": "b"}))

    def boxed(self, name: str, *args: str) -> ContainerRequest:
        return dataclasses.replace(self.request(POD, name, *args), handler="box")

    def calls(self) -> list[str]:
        return (self.told / "calls").read_text().split()

    def pid(self) -> int:
        """Of what is the sandbox."""
        return int((self.told / "pid").read_text())


@pytest.fixture
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ShimNode]:
    """A pod on a node whose shim does something wrong, or `none`; then nothing is left."""
    fault = getattr(request, "param", "none")
    binary = SHIM if fault == "plain" else program(SHIM, tmp_path / "box", fault)
    async with lifetime(ShimNode(tmp_path, binary), POD) as node:
        yield node
    assert [pid for pid in shims(POD) if alive(pid)] == []


UP = ["CreateSandbox", "StartSandbox", "WaitSandbox", "Platform", "SandboxStatus"]


async def test_the_sandbox_is_made_with_the_pod_and_told_what_the_pod_is(node: ShimNode) -> None:
    await node.make()
    assert node.calls() == UP
    assert alive(node.pid())
    told = json.loads((node.told / "sandbox.json").read_text())
    assert base64.b64decode(told.pop("options")) == b"\x0a\x05\x0a\x03pod"
    assert told == {
        "id": POD,
        "bundle": f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{POD}",
        "netns": f"{node.netns_dir}/cni-{POD}",
        "type": "runtime.v1.PodSandboxConfig",
        "annotations": {
            "org.example/a": "b",
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": POD,
        },
        "config": True,
    }


async def test_containers_are_made_in_the_shim_that_has_the_sandbox(node: ShimNode) -> None:
    await node.make()
    before = shims(POD)
    await node.runtime.start_container(node.boxed("c1", "sh", "-c", "echo out; exit 7"))
    assert (await node.ended("c1")).exit_code == 7
    assert node.lines("c1") == ["out"]
    await node.runtime.start_container(node.boxed("c2", "sleep", "1000"))
    assert await node.exec(POD, "c2", "echo", "in") == b"in\n"
    assert shims(POD) == before
    assert node.calls() == [*UP, "PingSandbox", "PingSandbox"]
    sandbox = node.pid()
    await node.remove(POD)
    assert node.calls()[-2:] == ["StopSandbox", "ShutdownSandbox"]
    assert not alive(sandbox)
    await node.create(POD)


async def test_another_daemon_finds_the_sandbox_and_what_is_in_it(node: ShimNode) -> None:
    await node.make()
    await node.runtime.start_container(node.boxed("c1", "sleep", "1000"))
    await node.runtime.close()
    node.runtime = node.new_runtime()
    await node.runtime.start()
    report = await node.runtime.reconnect(POD)
    assert report is not None
    assert (report.sandbox_end, [one.container_id for one in report.running]) == ("", ["c1"])
    await node.runtime.start_container(node.boxed("c2", "true"))
    assert (await node.ended("c2")).exit_code == 0


@pytest.mark.parametrize("node", ["plain"], indirect=True)
async def test_a_shim_without_a_sandbox_service_is_refused_with_a_remedy(node: ShimNode) -> None:
    """containerd 1.7's for runc has one that makes nothing, and does not wait for its end."""
    words = r'CreateSandbox: .*does not serve containerd\.runtime.*set sandbox = "task" or "none"'
    with pytest.raises(InitFailed, match=f"{words}|sandbox has ended, with status 0"):
        await node.make()


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("refuse=CreateSandbox", "CreateSandbox: CreateSandbox is not to be had today"),
        ("refuse=StartSandbox", "StartSandbox: StartSandbox is not to be had today"),
        ("nonsense=CreateSandbox", "CreateSandbox was answered with nonsense"),
        ("nonsense=WaitSandbox", "WaitSandbox was answered with nonsense"),
        ("die=CreateSandbox", "CreateSandbox: the shim is gone"),
        ("die=StartSandbox", "StartSandbox: the shim is gone"),
        ("die=Platform", "the shim is gone|it has closed"),
        ("os=windows", "Platform: 'windows', and containers here are for linux"),
        ("state=SANDBOX_NOTREADY", "SandboxStatus: its state is 'SANDBOX_NOTREADY'"),
        ("end=SandboxStatus", "the pod's sandbox has ended, with status 137"),
    ],
    indirect=["node"],
)
async def test_a_sandbox_that_can_not_be_made_says_why_and_leaves_nothing(
    node: ShimNode, words: str
) -> None:
    with pytest.raises(InitFailed, match=f"box start: .*({words})") as failed:
        await node.make()
    assert len(str(failed.value)) < 4096
    await node.remove(POD)
    assert not any(alive(pid) for pid in shims(POD))
    assert node.calls()[-1] == "delete"
    if "gone" not in words:
        assert node.calls()[-3:-1] == ["StopSandbox", "ShutdownSandbox"]
    assert node.lost == []
    await node.create(POD)


@pytest.mark.parametrize(
    ("node", "step"),
    [("hang=CreateSandbox", "CreateSandbox"), ("hang=SandboxStatus", "SandboxStatus")],
    indirect=["node"],
)
async def test_a_pod_can_be_removed_while_its_sandbox_does_not_come_up(
    node: ShimNode, step: str
) -> None:
    making = asyncio.create_task(node.make())
    await until(lambda: (node.told / "calls").exists() and step in node.calls())
    began = time.monotonic()
    await node.remove(POD)
    assert time.monotonic() - began < 10
    assert node.calls() == [*UP[: UP.index(step) + 1], "StopSandbox", "ShutdownSandbox"]
    with pytest.raises(InitFailed, match="the pod ends"):
        await making
    await node.create(POD)


@pytest.mark.parametrize("node", ["hang=StopSandbox", "hang=ShutdownSandbox"], indirect=True)
async def test_a_pod_ends_though_its_shim_does_not_end_the_sandbox(node: ShimNode) -> None:
    await node.make()
    sandbox = node.pid()
    await node.remove(POD)
    assert not alive(sandbox)
    await node.create(POD)


@pytest.mark.parametrize("node", ["hang=PingSandbox"], indirect=True)
async def test_a_shim_that_hangs_is_found_out_before_a_container_is_made(node: ShimNode) -> None:
    await node.make()
    with pytest.raises(InitFailed, match=r"box PingSandbox: .*not answered within 10 s"):
        await node.runtime.start_container(node.boxed("c1", "true"))


@pytest.mark.parametrize("node", ["hang=PingSandbox"], indirect=True)
async def test_a_container_that_waits_for_its_shim_hears_of_the_sandboxs_end(
    node: ShimNode,
) -> None:
    await node.make()
    starting = asyncio.create_task(node.runtime.start_container(node.boxed("c1", "true")))
    await until(lambda: node.calls()[-1] == "PingSandbox")
    os.kill(node.pid(), signal.SIGKILL)
    with pytest.raises(InitFailed, match="the pod's sandbox has ended, with status 137"):
        await asyncio.wait_for(starting, 5)
    await until(lambda: node.lost == [POD])


@pytest.mark.parametrize("dying", ["sandbox", "shim"])
async def test_a_pod_is_lost_with_its_sandbox_when_all_its_containers_have_ended(
    node: ShimNode, dying: str
) -> None:
    await node.make()
    running = shims(POD)
    await node.runtime.start_container(node.boxed("c1", "sleep", "1000"))
    os.kill(node.pid() if dying == "sandbox" else running[0], signal.SIGKILL)
    await until(lambda: node.lost == [POD])
    ended = node.expected("c1").result()  # told before
    assert ended.exit_code == 137
    assert "the box shim of the pod is gone" in ended.message
    report = await node.runtime.reconnect(POD)
    assert report is not None
    if dying == "sandbox":
        assert report.sandbox_end == "the pod's sandbox has ended, with status 137"
    else:
        assert report.sandbox_end
    with pytest.raises(InitFailed, match="the pod's shim is gone"):  # it does not get another
        await node.runtime.start_container(node.boxed("c2", "true"))
    assert not any(map(alive, running))
    await node.remove(POD)
    assert node.calls()[-1] == "delete"
    await node.create(POD)


async def test_nothing_is_left_of_a_sandbox_whose_monitor_was_killed(node: ShimNode) -> None:
    await node.remove(POD)
    monitor = await node.create(POD)
    await node.make()
    await node.runtime.start_container(node.boxed("c1", "sleep", "1000"))
    running = [*shims(POD), node.pid()]
    os.kill(monitor, signal.SIGKILL)
    await until(lambda: node.lost == [POD])
    await node.remove(POD)
    assert not any(map(alive, running))
    await node.create(POD)
