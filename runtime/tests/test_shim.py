"""Containers of containerd's shim for runc, under a real monitor."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.cgroup import tree
from runtime.errors import ContainerNotFound, ExecTimedOut, InitFailed
from runtime.handlers.shim_v2 import ShimV2
from runtime.lifecycle import (
    AttachRequest,
    ContainerRequest,
    ExecRequest,
    Started,
    StreamedExec,
)
from runtime.tests.node import Node, lifetime, until
from runtime.tests.shims import POD, SHIM, alive, script, shims, slow_runc

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not SHIM, reason="needs the shim: `apt-get install containerd`"),
]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A runtime with handlers; afterwards nothing of them may be left."""
    mute = 'case "$*" in *start*) exit 3;; esac'
    listens = '{"version": 3, "address": "@containerd-shim/x", "protocol": "ttrpc"}'
    liar = f"case \"$*\" in *start*) echo '{listens}'; exit 0;; esac"
    late = f'case "$*" in *start*) : > {tmp_path}/is-late; exec sleep 1000;; esac'
    handlers = {
        "late": ShimV2("late", script(tmp_path / "late", late)),
        "shim": ShimV2("shim", SHIM),
        "machine": ShimV2("machine", SHIM, sandbox="task"),
        "mute": ShimV2("mute", script(tmp_path / "mute", mute)),
        "liar": ShimV2("liar", script(tmp_path / "liar", liar)),
        "slow": ShimV2("slow", SHIM, options={"BinaryName": slow_runc(tmp_path)}),
        "norunc": ShimV2("norunc", SHIM, options={"BinaryName": "/no/such/runc"}),
    }
    async with lifetime(Node(tmp_path, handlers), POD) as node:
        yield node
    assert [pid for pid in shims(POD) if alive(pid)] == []


def request(node: Node, handler: str, name: str, *args: str) -> ContainerRequest:
    return dataclasses.replace(node.request(POD, name, *args), handler=handler)


async def start(node: Node, handler: str, name: str, *args: str) -> Started:
    return await node.runtime.start_container(request(node, handler, name, *args))


async def test_a_program_runs_and_its_output_and_end_are_kept(node: Node) -> None:
    started = await start(node, "shim", "c1", "sh", "-c", "echo out; echo err >&2; exit 7")
    ended = await node.ended("c1")
    assert ended.exit_code == 7
    assert started.started_at <= ended.finished_at
    assert sorted(node.lines("c1")) == ["err", "out"]


async def test_containers_of_a_pod_have_one_shim(node: Node) -> None:
    names = ("c1", "c2", "c3")
    await asyncio.gather(*(start(node, "shim", name, "sleep", "1000") for name in names))
    assert len(shims(POD)) == 1


async def test_a_container_can_be_removed_while_its_shim_does_not_come_up(node: Node) -> None:
    starting = asyncio.create_task(start(node, "late", "c1", "true"))
    await until((node.path / "is-late").exists)
    await node.runtime.remove_container(POD, "c1")
    with pytest.raises(InitFailed, match="killed before it could start"):
        await starting


async def test_a_container_can_be_removed_while_its_shim_hangs_in_making_it(node: Node) -> None:
    await start(node, "slow", "c0", "sleep", "1000")
    (node.path / "is-slow").unlink()
    (node.path / "hold").touch()
    starting = asyncio.create_task(start(node, "slow", "c1", "sleep", "1000"))
    await until((node.path / "is-slow").exists)
    began = time.monotonic()
    await node.runtime.remove_container(POD, "c1")
    assert time.monotonic() - began < 10
    with pytest.raises(InitFailed, match="killed before it could start"):
        await starting
    (node.path / "hold").unlink()
    await start(node, "slow", "c2", "true")
    assert (await node.ended("c2")).exit_code == 0
    assert b"sleep" in await node.exec(POD, "c0", "ps")
    cgroup = tree.detect().cgroup(f"{node.cgroup}/{POD}/c1")
    await until(lambda: not cgroup.exists() or not cgroup.pids())


async def test_a_start_that_fails_is_told_in_the_shims_own_words(node: Node) -> None:
    with pytest.raises(InitFailed, match=r"shim create: .*/no/such/command"):
        await start(node, "shim", "c1", "/no/such/command")
    await start(node, "shim", "c2", "true")  # the pod is none the worse for it
    assert (await node.ended("c2")).exit_code == 0


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ("mute", "mute start: exit status 3: it does not say why"),
        ("liar", "not a socket with a path"),
        ("norunc", "norunc create: .*/no/such/runc"),
    ],
)
async def test_a_shim_that_is_of_no_use_says_why(node: Node, handler: str, words: str) -> None:
    for name in ("c1", "c2"):  # the second time as the first
        with pytest.raises(InitFailed, match=words):
            await start(node, handler, name, "true")


async def test_a_program_that_has_ended_before_its_start_is_told_has_run(node: Node) -> None:
    for number in range(5):
        name = f"c{number}"
        started = await start(node, "shim", name, "sh", "-c", f"echo {number}; exit {number}")
        ended = await node.ended(name)
        assert ended.exit_code == number
        assert started.started_at <= ended.finished_at
        assert node.lines(name) == [str(number)]


async def test_many_commands_at_once_each_hear_their_own_end(node: Node) -> None:
    await start(node, "shim", "c1", "sleep", "1000")
    results = await asyncio.gather(
        *(
            node.runtime.exec(ExecRequest(POD, "c1", ("sh", "-c", f"echo {number}; exit {number}")))
            for number in range(8)
        )
    )
    assert [(one.exit_code, one.stdout) for one in results] == [
        (number, f"{number}\n".encode()) for number in range(8)
    ]


async def test_a_command_that_takes_too_long_is_killed(node: Node) -> None:
    await start(node, "shim", "c1", "sleep", "1000")
    words = ("sh", "-c", "sleep 1001 & sleep 1001")
    with pytest.raises(ExecTimedOut):
        await node.runtime.exec(ExecRequest(POD, "c1", words, 0.5))
    assert b"1001" not in await node.exec(POD, "c1", "ps")


async def test_a_command_takes_too_long_though_its_shim_hangs(node: Node) -> None:
    await start(node, "shim", "c1", "sleep", "1000")
    (pid,) = shims(POD)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ExecTimedOut):
        await node.exec(POD, "c1", "sleep", "1001", patience=0.5)
    assert time.monotonic() - began < 10
    os.kill(pid, signal.SIGCONT)
    for _ in range(3):  # what it was asked for late is not left running
        found = await node.exec(POD, "c1", "ps")
        await asyncio.sleep(0.5)
    assert b"1001" not in found


async def test_a_command_in_a_container_that_has_ended_is_refused(node: Node) -> None:
    await start(node, "shim", "c1", "true")
    await node.ended("c1")
    with pytest.raises(ContainerNotFound):
        await node.exec(POD, "c1", "true")


async def test_a_command_ends_with_its_container(node: Node) -> None:
    await start(node, "shim", "c1", "sleep", "1000")
    running = asyncio.create_task(node.exec(POD, "c1", "sleep", "1001", patience=0))
    cgroup = tree.detect().cgroup(f"{node.cgroup}/{POD}/c1")
    await until(lambda: len(cgroup.pids()) == 2)
    await node.runtime.signal(POD, "c1", signal.SIGKILL)
    assert (await node.ended("c1")).exit_code == 137
    await asyncio.wait_for(running, 10)


async def test_a_monitor_keeps_no_descriptors_of_what_has_ended(node: Node) -> None:
    await node.remove(POD)
    monitor = await node.create(POD)
    await start(node, "shim", "c1", "sleep", "1000")

    def held() -> int:
        return len(os.listdir(f"/proc/{monitor}/fd"))

    async def life(number: int) -> None:
        await node.exec(POD, "c1", "true")
        words = ("sh", "-c", "read x")
        session = await node.runtime.open_exec(StreamedExec(POD, "c1", words, terminal=True))
        await session.close()
        with contextlib.suppress(ExecTimedOut):
            await node.exec(POD, "c1", "sleep", "1000", patience=0.1)
        with pytest.raises(InitFailed):
            await start(node, "shim", f"bad{number}", "/no/such/command")
        await start(node, "shim", f"good{number}", "true")
        await node.ended(f"good{number}")

    await life(0)
    before = held()
    for number in range(1, 4):
        await life(number)
    await until(lambda: held() <= before)


async def test_a_signal_reaches_the_program_by_the_shim(node: Node) -> None:
    await start(
        node, "shim", "c1", "sh", "-c", "trap 'exit 5' USR1; echo up; while :; do sleep 0.01; done"
    )
    await until(lambda: node.lines("c1") == ["up"])
    await node.runtime.signal(POD, "c1", signal.SIGUSR1)
    assert (await node.ended("c1")).exit_code == 5


async def test_a_program_that_takes_too_much_memory_is_said_to_have(node: Node) -> None:
    eat = "head -c 64000000 /dev/zero | tail -c 64000000 >/dev/null"
    made = node.request(POD, "c1", "sh", "-c", eat, memory=16 << 20)
    await node.runtime.start_container(dataclasses.replace(made, handler="shim"))
    ended = await node.ended("c1")
    assert ended.oom_killed


async def read(fd: int, wanted: bytes) -> bytes:
    """What comes out of a descriptor, until it is there."""
    found = b""
    async with asyncio.timeout(10):
        while wanted not in found:
            with contextlib.suppress(BlockingIOError):
                data = os.read(fd, 4096)
                assert data, found
                found += data
            await asyncio.sleep(0.01)
    return found


async def test_a_command_on_a_terminal_knows_its_size_and_hears_its_client(node: Node) -> None:
    await start(node, "shim", "c1", "sleep", "1000")
    script = "test -t 0 && echo terminal; read line; stty size; exit 5"
    words = ("sh", "-c", script)
    session = await node.runtime.open_exec(StreamedExec(POD, "c1", words, terminal=True))
    await read(session.stdout_fd, b"terminal")
    session.resize(101, 33)
    await asyncio.sleep(0.2)
    os.write(session.stdin_fd, b"words\n")
    assert b"33 101" in await read(session.stdout_fd, b"33 101")
    assert await session.wait() == 5
    await session.close()


async def test_the_end_of_a_commands_input_is_an_end(node: Node) -> None:
    await start(node, "shim", "c1", "sleep", "1000")
    session = await node.runtime.open_exec(StreamedExec(POD, "c1", ("cat",)))
    os.write(session.stdin_fd, b"words")
    session.end_input()
    assert await read(session.stdout_fd, b"words") == b"words"
    assert await session.wait() == 0
    await session.close()


async def test_a_terminal_can_be_attached_to(node: Node) -> None:
    made = node.request(POD, "c1", "sh")
    process = dataclasses.replace(made.spec.process, terminal=True)
    spec = dataclasses.replace(made.spec, process=process)
    await node.runtime.start_container(
        dataclasses.replace(made, spec=spec, stdin=True, handler="shim")
    )
    session = await node.runtime.attach(AttachRequest(POD, "c1", (0, 1)))
    session.resize(77, 22)
    await asyncio.sleep(0.2)
    os.write(session.stdin_fd, b"stty size; exit 3\n")
    await read(session.stdout_fd, b"22 77")
    assert (await node.ended("c1")).exit_code == 3
    await session.close()
    assert any("22 77" in line for line in node.lines("c1"))


async def test_input_that_one_client_ends_ends_for_the_container(node: Node) -> None:
    made = node.request(POD, "c1", "cat")
    await node.runtime.start_container(
        dataclasses.replace(made, stdin=True, stdin_once=True, handler="shim")
    )
    session = await node.runtime.attach(AttachRequest(POD, "c1", (0, 1)))
    os.write(session.stdin_fd, b"words\n")
    await read(session.stdout_fd, b"words")
    session.end_input()
    assert (await node.ended("c1")).exit_code == 0
    await session.close()


async def test_containers_end_with_their_shim_and_say_so(node: Node) -> None:
    for name in ("c1", "c2"):
        await start(node, "shim", name, "sleep", "1000")
    (pid,) = shims(POD)
    os.kill(pid, signal.SIGKILL)
    for name in ("c1", "c2"):
        ended = await node.ended(name)
        assert ended.exit_code == 137
        assert "the shim shim of the pod is gone" in ended.message
    assert not tree.detect().cgroup(f"{node.cgroup}/{POD}/c1").exists()
    await start(node, "shim", "c3", "true")  # by another
    assert (await node.ended("c3")).exit_code == 0


async def test_a_shim_that_hangs_does_not_keep_its_containers_alive(node: Node) -> None:
    await start(node, "shim", "c1", "sleep", "1000")
    (pid,) = shims(POD)
    os.kill(pid, signal.SIGSTOP)
    await node.runtime.signal(POD, "c1", signal.SIGKILL)
    ended = await asyncio.wait_for(node.expected("c1"), 40)
    assert ended.exit_code == 137
    assert "does not kill" in ended.message
    assert not alive(pid)


async def test_the_sandbox_task_is_there_before_the_first_container_and_goes_with_the_pod(
    node: Node,
) -> None:
    await start(node, "machine", "c1", "sleep", "1000")
    await start(node, "machine", "c2", "true")
    assert (await node.ended("c2")).exit_code == 0
    (pause,) = tree.detect().cgroup(f"{node.cgroup}/{POD}/{POD}").pids()
    assert os.readlink(f"/proc/{pause}/exe") == "/pause"
    await node.remove(POD)
    assert not alive(pause)
    await node.create(POD)


async def test_nothing_is_left_of_a_shim_whose_monitor_was_killed(node: Node) -> None:
    await node.remove(POD)
    monitor = await node.create(POD)
    for handler, name in (("machine", "c1"), ("machine", "c2")):
        await start(node, handler, name, "sleep", "1000")
    running = shims(POD)
    os.kill(monitor, signal.SIGKILL)
    await until(lambda: node.lost == [POD])
    await node.remove(POD)
    assert not any(map(alive, running))
    await node.create(POD)
