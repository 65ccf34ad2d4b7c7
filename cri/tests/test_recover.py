"""After a crash, a restart or a reboot, the daemon says what is true."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import time

import pytest

from cri import recover
from cri.api import api_pb2 as api
from cri.events import What
from cri.rpc.container_start import after_start
from cri.store.container import ContainerState
from cri.store.sandbox import Sandbox, SandboxMetadata, SandboxState
from cri.tests.pods import FOREVER, Node, eventually
from runtime.lifecycle import ContainerExit, Started

pytestmark = pytest.mark.root


async def test_a_pod_whose_monitor_dies_is_dead_and_others_don_t_notice(node: Node) -> None:
    other = await node.running(await node.run(), *FOREVER, name="other")
    sandbox_id = await node.run()
    container_id = await node.running(sandbox_id, *FOREVER)
    os.kill(node.monitor_pid(sandbox_id), signal.SIGKILL)
    await node.ended(container_id)
    told = await node.status(container_id)
    assert (told.exit_code, told.reason) == (255, "Unknown")
    assert "monitor died" in told.message
    async with asyncio.timeout(10):
        await node.services.store.sandboxes.until(sandbox_id, lambda one: one.status.stopped)
    assert await node.sandbox_state(sandbox_id) == api.SANDBOX_NOTREADY
    assert not any(sandbox_id in left for left in node.leftovers())
    assert (await node.status(other)).state == api.CONTAINER_RUNNING


async def test_a_pod_lives_on_when_the_connection_to_its_monitor_breaks(node: Node) -> None:
    sandbox_id = await node.run()
    container_id = await node.running(sandbox_id, *FOREVER)
    client = node.services.runtime._monitors[sandbox_id]
    client._connection.shutdown(socket.SHUT_RDWR)
    await eventually(lambda: node.services.runtime._monitors.get(sandbox_id) not in (client, None))
    async with node.services.locks.hold(sandbox_id):  # whoever settles it has done so
        pass
    assert await node.sandbox_state(sandbox_id) == api.SANDBOX_READY
    os.kill(node.services.store.containers.get(container_id).status.pid, signal.SIGKILL)
    await node.ended(container_id)
    assert (await node.status(container_id)).exit_code == 137


async def test_a_life_of_a_moment_is_told_in_its_order_and_whole(node: Node) -> None:
    sandbox_id = await node.run()
    with node.services.events.watch() as watcher:
        for number in range(20):
            await node.ended(await node.running(sandbox_id, "true", name=f"c{number}"))
        events = list(watcher.unread())[2:]  # without the sandbox's own
    assert [event.what for event in events] == [What.CREATED, What.STARTED, What.STOPPED] * 20
    for started, stopped in zip(events[1::3], events[2::3], strict=True):
        before, after = started.containers[-1].status, stopped.containers[-1].status
        assert (before.state, after.state) == (ContainerState.RUNNING, ContainerState.EXITED)
        assert 0 < before.started_at == after.started_at < after.finished_at


async def test_an_exit_that_overtakes_its_start_waits_for_it_and_for_no_lock(node: Node) -> None:
    sandbox_id = await node.run()
    container_id = await node.create(sandbox_id, *FOREVER)
    containers = node.services.store.containers
    with node.services.events.watch() as watcher:
        async with node.services.locks.hold(container_id):  # as a start does, then a removal
            recover.on_exit(node.services, ContainerExit(sandbox_id, container_id, 0, 9))
            assert containers.get(container_id).status.state is ContainerState.CREATED
            containers.update(container_id, lambda status: after_start(status, Started(1, 8)))
            await node.ended(container_id)
        told = [event.what for event in watcher.unread() if event.subject == container_id]
    assert told == [What.CREATED, What.STARTED, What.STOPPED]
    assert containers.get(container_id).status.started_at == 8


async def test_what_can_t_be_written_down_is_tried_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recover, "RETRY_SECONDS", 0.05)
    lost = await node.run()
    await node.running(lost, *FOREVER, name="lost")
    brief = await node.running(await node.run(), *FOREVER)
    node.let_write(allowed=False)
    os.kill(node.monitor_pid(lost), signal.SIGKILL)
    os.kill(node.services.store.containers.get(brief).status.pid, signal.SIGKILL)
    for name in (f"exit of container {brief}", f"death of sandbox {lost}, to be"):
        await eventually(functools.partial(lambda text: caplog.text.count(text) > 1, name))
    states = {one.status.state for one in node.services.store.containers}
    assert states == {ContainerState.RUNNING}
    node.let_write(allowed=True)
    await node.ended(brief)
    assert (await node.status(brief)).exit_code == 137
    async with asyncio.timeout(10):
        await node.services.store.sandboxes.until(lost, lambda one: one.status.stopped)


async def test_a_new_daemon_knows_what_runs_and_what_ended_meanwhile(node: Node) -> None:
    sandbox_id = await node.run()
    gate = node.path / "gate"
    os.mkfifo(gate)
    config = node.container_config("sh", "-c", "cat /gate; exit 5", name="brief")
    config.mounts.add(container_path="/gate", host_path=os.fspath(gate))
    brief = await node.create_from(sandbox_id, config)
    await node.start_one(brief)
    lasting = await node.running(sandbox_id, *FOREVER, name="lasting")
    created = await node.create(sandbox_id, "echo", "late", name="created")
    before = await node.status(lasting)
    await node.stop()
    await asyncio.to_thread(gate.write_bytes, b"")
    exits = node.path / "state" / "monitors" / sandbox_id / "exits" / f"{brief}.json"
    await eventually(exits.exists)
    await node.start()
    await node.recover()
    with node.services.events.watch() as watcher:
        assert [(one.what, one.subject) for one in watcher.unread()] == [(What.STOPPED, brief)]
    told = await node.status(brief)
    assert (told.state, told.exit_code, told.reason) == (api.CONTAINER_EXITED, 5, "Error")
    assert told.finished_at < time.time_ns()
    assert await node.status(lasting) == before
    await node.start_one(created)
    await node.ended(created)
    assert node.log("created") == ["late"]
    await node.stop_container(lasting, 0)
    assert (await node.status(lasting)).exit_code == 137


async def test_a_pod_that_died_with_no_daemon_there_is_told_as_dead(node: Node) -> None:
    sandbox_id = await node.run()
    done = await node.running(sandbox_id, "sh", "-c", "exit 4", name="done")
    await node.ended(done)
    running = await node.running(sandbox_id, *FOREVER, name="running")
    created = await node.create(sandbox_id, "true", name="created")
    await node.stop()
    os.kill(node.monitor_pid(sandbox_id), signal.SIGKILL)
    await node.start()
    await node.recover()
    assert await node.sandbox_state(sandbox_id) == api.SANDBOX_NOTREADY
    assert (await node.status(done)).exit_code == 4
    for container_id in (running, created):
        told = await node.status(container_id)
        assert (told.state, told.exit_code, told.reason) == (api.CONTAINER_EXITED, 255, "Unknown")
    await node.remove_pod(sandbox_id)
    assert node.leftovers() == []


@pytest.mark.parametrize("content", [b"", b'{"sandbox_id": ', bytes(64), b"\xff\xfe", b"[]"])
async def test_an_exit_that_can_t_be_read_is_one_that_nobody_knows(
    node: Node, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    sandbox_id = await node.run()
    container_id = await node.running(sandbox_id, *FOREVER)
    await node.stop()
    os.kill(node.monitor_pid(sandbox_id), signal.SIGKILL)
    directory = node.path / "state" / "monitors" / sandbox_id
    (directory / "exits" / f"{container_id}.json").write_bytes(content)
    for name in ("pid", "cgroups"):
        (directory / name).write_bytes(content)
    await node.start()
    await node.recover()
    told = await node.status(container_id)
    assert (told.state, told.exit_code, told.reason) == (api.CONTAINER_EXITED, 255, "Unknown")
    assert await node.sandbox_state(sandbox_id) == api.SANDBOX_NOTREADY
    assert f"{container_id}.json can't be read" in caplog.text
    await node.remove_pod(sandbox_id)
    assert not directory.exists()


async def test_what_can_t_be_removed_keeps_no_daemon_from_starting(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    stray = node.path / "state" / "monitors" / "stray"
    stray.write_text("no directory")
    await node.restart()
    assert "some of sandbox stray stays until the next start: [Errno 20]" in caplog.text
    stray.unlink()


async def test_after_a_reboot_nothing_is_ready_and_all_is_released(node: Node) -> None:
    sandbox_id = await node.run()
    container_id = await node.running(sandbox_id, *FOREVER)
    await node.services.runtime.remove_sandbox(sandbox_id)  # as a reboot does, and says nothing
    await node.restart(rebooted=True)
    assert await node.sandbox_state(sandbox_id) == api.SANDBOX_NOTREADY
    assert (await node.status(container_id)).state == api.CONTAINER_EXITED
    assert node.network.attached == set()


async def test_a_sandbox_that_was_being_made_is_gone_after_a_restart(node: Node) -> None:
    config = node.sandbox_config()
    node.services.store.sandboxes.add(Sandbox(SandboxMetadata("a" * 64), config))
    node.network.attached.add("a" * 64)
    assert await node.listed() == []
    await node.restart()
    assert len(node.services.store.sandboxes) == 0
    assert node.leftovers() == []


async def test_monitors_and_attachments_of_no_sandbox_are_removed(node: Node) -> None:
    sandbox_id = await node.run()
    await node.running(sandbox_id, *FOREVER)
    node.services.store.sandboxes.remove(sandbox_id)
    await node.restart()
    assert not any("netns" in left or "monitors" in left for left in node.leftovers())
    assert node.network.attached == set()
    assert len(node.services.store.containers) == 0


async def test_fifty_pods_are_known_again(node: Node) -> None:
    for _ in range(50):
        await node.run()
    await node.stop()
    await node.start()
    began = time.monotonic()
    await node.recover()
    print(f"50 pods known again after {time.monotonic() - began:.3f} s")
    states = [one.status.state for one in node.services.store.sandboxes]
    assert states == [SandboxState.READY] * 50
