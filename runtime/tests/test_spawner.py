"""Spawner, zygote and spare: what kills and cancellations of each leave of the others' work."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.linux import fds
from runtime.linux.process import kill_and_wait
from runtime.monitor.messages import MonitorRequest
from runtime.spawner.client import Spawn, SpawnerClient
from runtime.tests.node import Node, children, lifetime, spawner_pid, until, wait_for_end

pytestmark = pytest.mark.root


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A started runtime; afterwards nothing of it may be left."""
    async with lifetime(Node(tmp_path)) as node:
        yield node


async def test_a_killed_spawner_is_replaced_and_pods_run_on(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    spawner = await spawner_pid(node)
    await asyncio.to_thread(kill_and_wait, os.pidfd_open(spawner))
    await node.create("s2")
    assert await spawner_pid(node) != spawner
    assert await node.exec("s1", "c1", "echo", "alive") == b"alive\n"


async def test_who_gives_up_while_the_spawner_is_looked_for_disturbs_nobody(node: Node) -> None:
    await node.create("s1")
    spawner = await spawner_pid(node)
    client = SpawnerClient(node.state)

    def spawn(name: str) -> asyncio.Task[Spawn]:
        directory, netns_path = node.state / "monitors" / name, node.netns_dir / f"cni-{name}"
        request = MonitorRequest(node.sandbox(name), os.fspath(directory), os.fspath(netns_path))
        return asyncio.create_task(client.spawn(request))

    os.kill(spawner, signal.SIGSTOP)
    try:
        first = spawn("s2")
        await until(lambda: client._connection is not None)
        first.cancel()
        second = spawn("s3")
        await asyncio.wait([second], timeout=0.2)
    finally:
        os.kill(spawner, signal.SIGCONT)
    spawned = await second
    spawned.connection.close()
    fds.close_all(spawned.handles)
    client.close()
    assert first.cancelled()
    assert await spawner_pid(node) == spawner
    await node.remove("s3")


async def test_a_pod_that_is_given_up_is_undone_after_it_was_made(node: Node) -> None:
    await node.create("s1")
    spawner = await spawner_pid(node)
    os.kill(spawner, signal.SIGSTOP)
    try:
        creating = asyncio.create_task(node.create("s2"))
        await until(lambda: (node.state / "monitors" / "s2" / "monitor.sock").exists())
        await asyncio.wait([creating], timeout=0.05)
        creating.cancel()
        await asyncio.wait([creating], timeout=0.05)
        assert not creating.done()
    finally:
        os.kill(spawner, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert (node.netns_dir / "cni-s2").exists()
    await node.remove("s2")
    assert not (node.netns_dir / "cni-s2").exists()
    assert await node.create("s3")
    assert await spawner_pid(node) == spawner


async def test_a_zygote_ends_quietly_when_its_spawner_was_killed(node: Node) -> None:
    await node.create("s1")
    spawner = await spawner_pid(node)
    zygote = children(spawner)[0]
    await until(lambda: len(children(spawner)) == 3)
    ended = os.pidfd_open(zygote)
    await asyncio.to_thread(kill_and_wait, os.pidfd_open(spawner))
    assert await asyncio.to_thread(wait_for_end, ended)
    assert "Traceback" not in (node.state / "spawner.log").read_text()


async def test_a_killed_zygote_is_replaced_with_its_spawner(node: Node) -> None:
    await node.create("s1")
    spawner = await spawner_pid(node)
    os.kill(children(spawner)[0], signal.SIGKILL)
    await node.create("s2")
    await node.start("s2", "c1", "sleep", "100")
    assert await spawner_pid(node) != spawner


async def _spare(node: Node) -> int:
    """The pid of the monitor that waits for the next pod."""
    monitor = await node.create("s1")
    spawner = await spawner_pid(node)
    zygote, *_ = children(spawner)
    await until(lambda: len(children(spawner)) == 3)
    (spare,) = set(children(spawner)) - {zygote, monitor}
    return spare


async def test_a_monitor_is_forked_before_it_is_wanted(node: Node) -> None:
    spare = await _spare(node)
    assert await node.create("s2") == spare


async def test_a_spare_monitor_that_was_killed_is_replaced(node: Node) -> None:
    await asyncio.to_thread(kill_and_wait, os.pidfd_open(await _spare(node)))
    await node.create("s2")
    await node.start("s2", "c1", "true")
    assert (await node.ended("c1")).exit_code == 0
