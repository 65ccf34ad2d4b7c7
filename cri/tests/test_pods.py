"""Sandboxes and containers by their handlers: real processes, a network that may fail."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from cri.errors import ContainerNotFound, InvalidRequest, NameTaken, SandboxNotFound, WrongState
from cri.rpc.container_exec_sync import exec_sync
from cri.rpc.container_remove import remove_container
from cri.rpc.container_reopen_log import reopen_container_log
from cri.rpc.sandbox_run import run_pod_sandbox
from cri.rpc.sandbox_status import pod_sandbox_status
from cri.tests.pods import FOREVER, IMAGE_ID, STUBBORN, Node
from image.errors import ImageNotFound
from runtime.errors import ExecTimedOut, InitFailed

pytestmark = pytest.mark.root


async def test_a_pod_lives_and_leaves_nothing(node: Node) -> None:
    sandbox_id = await node.run()
    container_id = await node.running(sandbox_id, "sh", "-c", "cat /etc/hostname; id -u")
    await node.ended(container_id)
    assert node.log() == ["web", "0"]
    told = await node.status(container_id)
    assert (told.state, told.exit_code, told.reason) == (api.CONTAINER_EXITED, 0, "Completed")
    assert 0 < told.created_at < told.started_at < told.finished_at
    assert (told.image.image, told.image_ref, told.image_id) == ("busybox:1", IMAGE_ID, IMAGE_ID)
    assert told.user.linux.uid == 0
    await node.remove_pod(sandbox_id)
    assert node.leftovers() == []
    with pytest.raises(SandboxNotFound):
        await node.sandbox_state(sandbox_id)
    with pytest.raises(ContainerNotFound):
        await node.status(container_id)


async def test_a_sandbox_tells_its_addresses_until_it_is_stopped(node: Node) -> None:
    sandbox_id = await node.run()
    request = api.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id[:12], verbose=True)
    answer = await pod_sandbox_status(node.services, request)
    assert answer.status.network.ip == "10.1.0.2"
    assert [ip.ip for ip in answer.status.network.additional_ips] == ["fd00::2"]
    assert set(answer.info) == {"info", "timeline"}
    await node.stop_pod(sandbox_id)
    answer = await pod_sandbox_status(node.services, request)
    assert (answer.status.state, answer.status.network.ip) == (api.SANDBOX_NOTREADY, "")
    assert node.leftovers() == []


async def test_a_second_request_joins_the_first_and_gets_its_id(node: Node) -> None:
    config = node.sandbox_config()
    first, second = await asyncio.gather(node.run(config), node.run(config))
    assert first == second == await node.run(config)
    assert len(await node.listed()) == 1
    created = await asyncio.gather(*(node.create(first, "true") for _ in range(3)))
    assert len(set(created)) == 1


async def test_the_same_name_for_something_else_is_refused(node: Node) -> None:
    config = node.sandbox_config()
    sandbox_id = await node.run(config)
    await node.create(sandbox_id, "true")
    with pytest.raises(NameTaken, match="has this name and attempt already"):
        await node.create(sandbox_id, "false")
    config.hostname = "other"
    with pytest.raises(NameTaken, match=sandbox_id):
        await node.run(config)


async def test_an_unknown_runtime_handler_is_named_with_the_known_ones(node: Node) -> None:
    request = api.RunPodSandboxRequest(config=node.sandbox_config(), runtime_handler="kata")
    with pytest.raises(InvalidRequest, match=r"'kata' is not configured.*'podwright'"):
        await run_pod_sandbox(node.services, request)


async def test_a_sandbox_whose_network_fails_leaves_nothing(node: Node) -> None:
    node.network.attach_error = OSError("no address")
    with pytest.raises(OSError, match="no address"):
        await node.run()
    assert (await node.listed(), node.leftovers()) == ([], [])


async def test_a_sandbox_whose_network_hangs_is_undone_when_the_client_gives_up(node: Node) -> None:
    node.network.gate = asyncio.Event()
    task = asyncio.create_task(node.run())
    await node.network.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait(node.services.flights.tasks())
    assert (await node.listed(), node.leftovers()) == ([], [])


async def test_what_can_t_be_undone_stays_listed_until_a_stop_succeeds(node: Node) -> None:
    node.network.attach_error = OSError("no address")
    node.network.detach_error = OSError("no kernel")
    with pytest.raises(OSError, match="no address") as caught:
        await node.run()
    assert any("detach the network" in note for note in caught.value.__notes__)
    [left] = await node.listed()
    assert left.state == api.SANDBOX_NOTREADY
    with pytest.raises(OSError, match="no kernel"):
        await node.stop_pod(left.id)
    node.network.detach_error = None
    await node.stop_pod(left.id)
    await node.remove_pod(left.id)
    assert (await node.listed(), node.leftovers()) == ([], [])


async def test_a_container_that_can_t_start_has_exited_with_the_reason(node: Node) -> None:
    container_id = await node.create(await node.run(), "/no/such/program")
    with pytest.raises(InitFailed, match="/no/such/program"):
        await node.start_one(container_id)
    told = await node.status(container_id)
    assert (told.state, told.exit_code, told.reason) == (api.CONTAINER_EXITED, 128, "StartError")
    assert "/no/such/program" in told.message
    with pytest.raises(WrongState, match="only a created one"):
        await node.start_one(container_id)


async def test_an_end_that_nobody_has_asked_for_is_a_line_in_the_log(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = node.sandbox_config()
    sandbox_id = await node.run(config)
    container_id = await node.running(sandbox_id, "sh", "-c", "exit 3")
    await node.ended(container_id)
    (line,) = [r.message for r in caplog.records if r.name == "cri.rpc.container_exit"]
    assert line.startswith(
        f"container main of n/{config.metadata.name} ({container_id[:12]}) ended after "
    )
    assert line.endswith(" s: exit code 3, Error")


async def test_a_container_starts_once_and_in_a_ready_sandbox(node: Node) -> None:
    sandbox_id = await node.run()
    await_start = await node.create(sandbox_id, *FOREVER, name="later")
    container_id = await node.running(sandbox_id, *FOREVER)
    with pytest.raises(WrongState, match="only a created one"):
        await node.start_one(container_id)
    await node.stop_pod(sandbox_id)
    told = await node.status(container_id)
    assert (told.state, told.exit_code, told.reason) == (api.CONTAINER_EXITED, 137, "Error")
    with pytest.raises(WrongState, match="its sandbox"):
        await node.start_one(await_start)
    with pytest.raises(WrongState, match="no container fits in"):
        await node.create(sandbox_id, "true", name="new")


async def test_a_start_goes_on_when_its_client_has_gone(node: Node) -> None:
    container_id = await node.create(await node.run(), *FOREVER)
    start = asyncio.create_task(node.start_one(container_id))
    for _ in range(3):  # turns of the loop until it has begun
        await asyncio.sleep(0)
    assert container_id in node.services.locks.held()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await asyncio.gather(*node.services.busy)
    assert (await node.status(container_id)).state == api.CONTAINER_RUNNING


async def test_a_sandbox_that_is_stopped_while_a_container_starts_ends_both(node: Node) -> None:
    sandbox_id = await node.run()
    container_id = await node.create(sandbox_id, *FOREVER)
    start = asyncio.create_task(node.start_one(container_id))
    for _ in range(3):  # turns of the loop until it has begun
        await asyncio.sleep(0)
    assert container_id in node.services.locks.held()
    await node.stop_pod(sandbox_id)
    await asyncio.wait([start])
    assert (await node.status(container_id)).state == api.CONTAINER_EXITED
    await node.remove_pod(sandbox_id)
    assert node.leftovers() == []


async def test_a_missing_image_or_sandbox_is_not_found(node: Node) -> None:
    sandbox_id = await node.run()
    config = node.container_config("true")
    config.image.image = "nginx"
    with pytest.raises(ImageNotFound, match="'nginx' is not in the store"):
        await node.create_from(sandbox_id, config)
    with pytest.raises(SandboxNotFound):
        await node.create("f" * 64, "true")


async def test_a_failed_create_leaves_no_snapshot(node: Node, tmp_path: Path) -> None:
    sandbox_id = await node.run()
    (tmp_path / "file").touch()
    config = node.container_config("true")
    config.mounts.add(container_path="/x", host_path=f"{tmp_path}/file/below")
    with pytest.raises(
        InvalidRequest, match=r"mounts\[0\]\.host_path: .*file/below.*Not a directory"
    ):
        await node.create_from(sandbox_id, config)
    assert node.images.overlays == {}
    assert node.services.store.containers.all() == ()


async def test_the_stop_signal_is_sent_once_and_patience_only_shrinks(node: Node) -> None:
    container_id = await node.running(await node.run(), *STUBBORN)
    await node.until_logged("ready")
    patient = asyncio.create_task(node.stop_container(container_id, 600))
    await node.until_logged("asked")
    began = time.monotonic()
    await node.stop_container(container_id, 1)
    assert 0.9 < time.monotonic() - began < 5
    await asyncio.wait_for(patient, 5)
    assert node.log().count("asked") == 1
    told = await node.status(container_id)
    assert (told.exit_code, told.reason) == (137, "Error")


async def test_a_stop_waits_no_longer_than_the_program_needs(node: Node) -> None:
    script = 'trap "exit 7" USR1; echo ready; while true; do sleep 0.02; done'
    config = node.container_config("sh", "-c", script)
    config.stop_signal = api.SIGNAL_SIGUSR1
    container_id = await node.create_from(await node.run(), config)
    await node.start_one(container_id)
    await node.until_logged("ready")
    await node.stop_container(container_id, 600)
    told = await node.status(container_id)
    assert (told.exit_code, told.stop_signal) == (7, api.SIGNAL_SIGUSR1)


async def test_stop_and_remove_of_what_is_not_there_succeed(node: Node) -> None:
    await node.stop_container("f" * 64, 0)
    await node.stop_pod("f" * 64)
    await node.remove_pod("f" * 64)
    await remove_container(node.services, api.RemoveContainerRequest(container_id="f" * 64))


async def test_removing_a_running_container_kills_it_and_twice_is_once(node: Node) -> None:
    container_id = await node.running(await node.run(), *FOREVER)
    request = api.RemoveContainerRequest(container_id=container_id)
    await asyncio.gather(*(remove_container(node.services, request) for _ in range(2)))
    assert node.services.store.containers.all() == ()
    assert node.images.overlays == {}


async def test_a_removal_that_fails_can_be_repeated(node: Node) -> None:
    sandbox_id = await node.run()
    await node.create(sandbox_id, "true")
    node.images.discard_error = OSError("busy")
    with pytest.raises(OSError, match="busy"):
        await node.remove_pod(sandbox_id)
    assert len(await node.listed()) == 1
    node.images.discard_error = None
    await node.remove_pod(sandbox_id)
    assert node.leftovers() == []


async def test_an_exec_answers_or_says_why_not(node: Node) -> None:
    container_id = await node.running(await node.run(), *FOREVER)

    async def run(*command: str, limit: int = 0) -> api.ExecSyncResponse:
        request = api.ExecSyncRequest(container_id=container_id, cmd=command, timeout=limit)
        return await exec_sync(node.services, request)

    answer = await run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 3)
    with pytest.raises(ExecTimedOut):
        await run("sleep", "100", limit=1)
    with pytest.raises(InvalidRequest, match="cmd: empty"):
        await run()
    await node.stop_container(container_id, 0)
    with pytest.raises(WrongState, match="exited, not running"):
        await run("true")


async def test_reopening_the_log_of_a_stopped_container_makes_no_file(node: Node) -> None:
    container_id = await node.running(await node.run(), "true")
    await node.ended(container_id)
    log = node.path / "logs" / "main" / "0.log"
    log.unlink()
    with pytest.raises(WrongState, match="not running"):
        await reopen_container_log(
            node.services, api.ReopenContainerLogRequest(container_id=container_id)
        )
    assert not log.exists()


async def test_a_target_s_processes_are_seen_only_while_it_runs(node: Node) -> None:
    sandbox_id = await node.run()
    target = await node.running(sandbox_id, *FOREVER, name="target")
    config = node.container_config("sh", "-c", "kill -0 1 && cat /proc/1/cmdline", name="debug")
    options = config.linux.security_context.namespace_options
    options.pid, options.target_id = api.TARGET, target
    config.linux.security_context.capabilities.add_capabilities.append("SYS_PTRACE")
    debug = await node.create_from(sandbox_id, config)
    await node.start_one(debug)
    await node.ended(debug)
    assert "sleep" in node.log("debug")[0]
    await node.stop_container(target, 0)
    config.metadata.attempt = 1
    with pytest.raises(WrongState, match="exited, not running"):
        await node.create_from(sandbox_id, config)
    options.target_id = "nobody"
    with pytest.raises(InvalidRequest, match="no container 'nobody'"):
        await node.create_from(sandbox_id, config)
