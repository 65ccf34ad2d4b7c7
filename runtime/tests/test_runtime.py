"""Sandboxes and containers through the facade: real spawner, monitors, processes, cgroups."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime import lifecycle
from runtime.cgroup import tree
from runtime.errors import (
    ContainerNotFound,
    ExecTimedOut,
    IllegalTransition,
    InitFailed,
    MonitorSilent,
    SandboxNotFound,
)
from runtime.lifecycle import ExecRequest
from runtime.linux.process import kill_and_wait
from runtime.spec import Namespace
from runtime.tests.node import Node, children, lifetime, spawner_pid, until, wait_for_end

pytestmark = pytest.mark.root


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A started runtime; afterwards nothing of it may be left."""
    async with lifetime(Node(tmp_path)) as node:
        yield node


async def test_a_container_runs_logs_and_its_exit_is_told(node: Node) -> None:
    await node.create("s1")
    started = await node.start("s1", "c1", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert started.pid > 0
    assert (started.identity.uid, started.identity.gid) == (0, 0)
    ended = await node.ended("c1")
    assert (ended.exit_code, ended.oom_killed, ended.message) == (3, False, "")
    assert abs(ended.finished_at - time.time_ns()) < 10e9
    assert node.lines("c1") == ["out", "err"]
    report = await node.runtime.reconnect("s1")
    assert report is not None
    assert (report.running, report.exited) == ((), (ended,))


async def test_containers_share_the_pods_namespaces_and_memory(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    await node.start("s1", "c2", "sleep", "100")
    await node.exec("s1", "c1", "sh", "-c", "echo shared > /dev/shm/x")
    assert await node.exec("s1", "c2", "cat", "/dev/shm/x") == b"shared\n"
    for namespace, same in (("net", True), ("ipc", True), ("uts", True), ("pid", False)):
        script = f"busybox readlink /proc/self/ns/{namespace}"
        first, second = [await node.exec("s1", name, "sh", "-c", script) for name in ("c1", "c2")]
        assert (first == second) is same, namespace
    assert await node.exec("s1", "c1", "busybox", "hostname") == b"pod\n"


async def test_a_shared_pid_namespace_has_a_reaper_and_sees_all(node: Node) -> None:
    await node.create("s1", pid="pod")
    for name in ("c1", "c2"):
        request = node.request("s1", name, "sleep", "100")
        spaces = tuple(
            Namespace("pid", "pod") if item.type == "pid" else item
            for item in request.spec.linux.namespaces
        )
        linux = dataclasses.replace(request.spec.linux, namespaces=spaces)
        spec = dataclasses.replace(request.spec, linux=linux)
        await node.runtime.start_container(dataclasses.replace(request, spec=spec))
    seen = await node.exec("s1", "c1", "ps")
    assert seen.count(b"sleep 100") == 2
    assert b"podwright-reaper" in seen
    assert b"python" not in seen
    await node.exec("s1", "c1", "sh", "-c", "for n in TERM INT HUP USR1 KILL; do kill -$n 1; done")
    assert (await node.exec("s1", "c1", "ps")).count(b"sleep 100") == 2
    await node.runtime.signal("s1", "c2", signal.SIGKILL)
    assert (await node.ended("c2")).exit_code == 137


async def test_a_second_start_and_unknown_ids_are_refused(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    with pytest.raises(IllegalTransition, match="was started before"):
        await node.runtime.start_container(
            dataclasses.replace(node.request("s1", "other", "true"), container_id="c1")
        )
    with pytest.raises(ContainerNotFound):
        await node.runtime.signal("s1", "nobody", signal.SIGTERM)
    with pytest.raises(SandboxNotFound):
        await node.start("s2", "c2", "true")


async def test_a_failed_start_says_which_step_and_leaves_nothing(node: Node) -> None:
    await node.create("s1")
    with pytest.raises(InitFailed, match="nosuch") as caught:
        await node.start("s1", "c1", "/bin/nosuch")
    assert caught.value.errno == errno.ENOENT
    report = await node.runtime.reconnect("s1")
    assert report is not None
    assert (report.running, report.exited) == ((), ())
    assert not tree.detect().cgroup(f"{node.cgroup}/s1/c1").exists()


async def test_signals_reach_the_program(node: Node) -> None:
    await node.create("s1")
    script = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.02; done"
    await node.start("s1", "c1", "sh", "-c", script)
    await until(lambda: "up" in node.log("c1").read_text())
    await node.runtime.signal("s1", "c1", signal.SIGTERM)
    assert (await node.ended("c1")).exit_code == 7
    assert node.lines("c1") == ["up", "got"]


async def test_exec_answers_output_and_code(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    result = await node.runtime.exec(
        ExecRequest("s1", "c1", ("sh", "-c", "echo o; echo e >&2; exit 5"))
    )
    assert (result.exit_code, result.stdout, result.stderr) == (5, b"o\n", b"e\n")
    killed = await node.runtime.exec(ExecRequest("s1", "c1", ("sh", "-c", "kill -9 $$")))
    assert killed.exit_code == 137
    with pytest.raises(InitFailed, match="nosuch"):
        await node.exec("s1", "c1", "/nosuch")


async def test_exec_output_is_capped(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    command = ("sh", "-c", "yes | head -c 3000000; echo end >&2")
    result = await node.runtime.exec(ExecRequest("s1", "c1", command, max_output=1_000_000))
    assert (len(result.stdout), result.stderr) == (1_000_000, b"end\n")


async def test_an_exec_that_times_out_is_killed_with_all_its_descendants(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    script = "(sleep 4711 &); sh -c 'sleep 4711 & sleep 4711'"
    before = time.monotonic()
    with pytest.raises(ExecTimedOut, match=r"timed out after 0.3 s"):
        await node.exec("s1", "c1", "sh", "-c", script, patience=0.3)
    assert time.monotonic() - before < 5
    assert b"4711" not in await node.exec("s1", "c1", "ps")


async def test_a_child_that_holds_the_pipe_does_not_hold_the_exec(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    before = time.monotonic()
    assert await node.exec("s1", "c1", "sh", "-c", "echo hi; sleep 50 &") == b"hi\n"
    assert time.monotonic() - before < 5


async def test_running_out_of_memory_is_told(node: Node) -> None:
    await node.create("s1")
    script = "busybox dd if=/dev/zero of=/dev/null bs=200M"
    await node.runtime.start_container(
        node.request("s1", "c1", "sh", "-c", f"exec {script}", memory=20 << 20)
    )
    ended = await node.ended("c1")
    assert (ended.exit_code, ended.oom_killed) == (137, True)


async def test_a_rotated_log_is_reopened(node: Node) -> None:
    await node.create("s1")
    await node.start(
        "s1", "c1", "sh", "-c", "echo one; while [ ! -e /go ]; do sleep 0.02; done; echo two"
    )
    await until(lambda: node.log("c1").stat().st_size > 0)
    rotated = node.log("c1").rename(node.path / "c1.log.1")
    await node.runtime.reopen_log("s1", "c1")
    assert node.log("c1").exists()
    await node.exec("s1", "c1", "busybox", "touch", "/go")
    await node.ended("c1")
    assert node.lines("c1") == ["two"]
    assert rotated.read_text().endswith("one\n")
    with pytest.raises(ContainerNotFound):
        await node.runtime.reopen_log("s1", "c1")


async def test_the_daemon_comes_back_and_is_told_what_happened(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    await node.start("s1", "c2", "sh", "-c", "while [ ! -e /go ]; do sleep 0.02; done; exit 9")
    await node.exec("s1", "c2", "busybox", "touch", "/go")
    await node.runtime.close()
    await asyncio.sleep(0.2)  # c2 ends while nobody listens
    again = node.new_runtime()
    await again.start()
    report = await again.reconnect("s1")
    assert report is not None
    assert [item.container_id for item in report.running] == ["c1"]
    assert [(item.container_id, item.exit_code) for item in report.exited] == [("c2", 9)]
    assert (await again.exec(ExecRequest("s1", "c1", ("echo", "still")))).stdout == b"still\n"
    node.runtime = again


async def test_a_pod_without_its_reaper_is_lost(node: Node) -> None:
    """No process could be made in it any more: better that it is made anew."""
    monitor = await node.create("s1", pid="pod")
    await until(lambda: len(children(monitor)) > 0)
    os.kill(children(monitor)[0], signal.SIGKILL)
    await until(lambda: node.lost == ["s1"])


async def test_a_container_inherits_no_signal_dispositions(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "busybox", "grep", "Sig[BI]", "/proc/self/status")
    await node.ended("c1")
    assert node.lines("c1") == ["SigBlk:\t" + "0" * 16, "SigIgn:\t" + "0" * 16]


async def test_a_killed_monitor_is_told_and_swept(node: Node) -> None:
    monitor = await node.create("s1")
    started = await node.start("s1", "c1", "sleep", "100")
    await node.create("s2")
    pidfd = os.pidfd_open(started.pid)
    os.kill(monitor, signal.SIGKILL)
    assert await asyncio.to_thread(wait_for_end, pidfd), "the container outlived its monitor"
    await until(lambda: node.lost == ["s1"])
    await node.remove("s1")
    assert await node.runtime.reconnect("s1") is None
    assert await node.runtime.reconnect("s2") is not None


async def test_removal_is_idempotent(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    for _ in range(2):
        await node.runtime.remove_container("s1", "c1")
        await node.remove("s1")
    assert node.leftovers() == []


async def test_ten_pods_at_once(node: Node) -> None:
    async def live(number: int) -> int:
        await node.create(f"s{number}")
        await node.start(f"s{number}", f"c{number}", "sh", "-c", f"exit {number}")
        code = (await node.ended(f"c{number}")).exit_code
        await node.remove(f"s{number}")
        return code

    assert await asyncio.gather(*(live(number) for number in range(10))) == list(range(10))


async def test_a_monitor_that_hangs_is_told_of_and_can_be_removed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REPORT_PATIENCE", "SIGNAL_PATIENCE", "SHUTDOWN_PATIENCE"):
        monkeypatch.setattr(lifecycle, name, 0.1)
    pid = await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(MonitorSilent, match="signal"):
        await node.runtime.signal("s1", "c1", signal.SIGKILL)
    flood = [node.runtime.signal("s1", "c1", signal.SIGCONT) for _ in range(1000)]
    told = await asyncio.gather(*flood, return_exceptions=True)  # more than its socket holds
    assert {type(error) for error in told} == {MonitorSilent}
    with pytest.raises(MonitorSilent, match="report"):  # and not None: it may only be slow
        await node.runtime.reconnect("s1")
    await asyncio.wait_for(node.remove("s1"), 5)
    assert str(pid) not in os.listdir("/proc")
    assert (node.leftovers(), node.lost) == ([], [])


async def test_a_log_that_is_no_file_holds_nothing_up(node: Node) -> None:
    await node.create("s1")
    os.mkfifo(node.log("c1"))
    with pytest.raises(InitFailed, match=f'log: the log file "{node.log("c1")}"'):
        await asyncio.wait_for(node.start("s1", "c1", "sleep", "100"), 5)
    await node.start("s1", "c2", "sleep", "100")
    node.log("c2").unlink()
    os.mkfifo(node.log("c2"))
    with pytest.raises(InitFailed, match="log"):
        await asyncio.wait_for(node.runtime.reopen_log("s1", "c2"), 5)
    assert await node.exec("s1", "c2", "echo", "alive") == b"alive\n"


async def test_an_exit_that_can_not_be_written_down_is_told_and_ends_no_pod(node: Node) -> None:
    await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    exits = node.state / "monitors" / "s1" / "exits"
    exits.rmdir()
    exits.touch()  # as little can be made in there as on a full disk
    await node.start("s1", "c2", "sh", "-c", "exit 7")
    assert (await node.ended("c2")).exit_code == 7
    assert await node.exec("s1", "c1", "echo", "alive") == b"alive\n"


async def test_failed_starts_leave_no_descriptor_in_the_monitor(node: Node) -> None:
    pid = await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")

    async def fail(number: int) -> None:
        request = node.request("s1", f"f{number}", "no-such-command")
        if number % 2:
            request = dataclasses.replace(request, pid_target="no-such-container")
        with pytest.raises((InitFailed, ContainerNotFound)):
            await node.runtime.start_container(request)
        with pytest.raises(InitFailed):
            await node.exec("s1", "c1", "no-such-command")

    await fail(0)
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for number in range(1, 6):
        await fail(number)
    assert len(os.listdir(f"/proc/{pid}/fd")) == before


async def test_containers_have_the_limit_of_open_files_with_which_the_daemon_was_started(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    try:
        node = Node(tmp_path)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # as the daemon does
        await node.runtime.start()
        pid = await spawner_pid(node)
        given = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        await node.runtime.close()
        await asyncio.to_thread(kill_and_wait, os.pidfd_open(pid))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert given == (hard // 2, hard)
