"""Containers of an OCI binary under a real monitor: what goes wrong at awkward moments."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.cgroup import tree
from runtime.errors import ContainerNotFound, ExecTimedOut, InitFailed
from runtime.handlers.oci_cli import OciCli
from runtime.lifecycle import ContainerRequest, ExecRequest, Started
from runtime.tests.node import Node, children, lifetime, until

RUNC = shutil.which("runc", path="/usr/sbin:/usr/bin") or ""
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not RUNC, reason="needs runc: `apt-get install runc`"),
]


def script(path: Path, before: str) -> str:
    """A binary that does something before it does what runc does."""
    path.write_text(f'#!/bin/sh\n{before}\nexec {RUNC} "$@"\n')
    path.chmod(0o755)
    return os.fspath(path)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A runtime with handlers; afterwards nothing of them may be left."""
    hangs = f'case "$*" in *" create "*) : > {tmp_path}/hangs; exec sleep 1000;; esac'
    mute = 'case "$*" in *" create "*) exit 3;; esac'
    late = f'case "$*" in *" start "*) : > {tmp_path}/late; exec sleep 1000;; esac'
    handlers = {
        "runc": OciCli("runc", RUNC),
        "hangs": OciCli("hangs", script(tmp_path / "hangs.sh", hangs)),
        "mute": OciCli("mute", script(tmp_path / "mute.sh", mute)),
        "late": OciCli("late", script(tmp_path / "late.sh", late)),
        "liar": OciCli("liar", os.fspath(tmp_path / "liar.sh")),
        "ours": OciCli("ours", RUNC, own_cgroup=False),
    }
    async with lifetime(Node(tmp_path, handlers), "s1") as node:
        yield node
    directories = list((node.state / "handlers").iterdir())
    assert [list(path.iterdir()) for path in directories if any(path.iterdir())] == []


def request(node: Node, handler: str, name: str, *args: str) -> ContainerRequest:
    return dataclasses.replace(node.request("s1", name, *args), handler=handler)


async def start(node: Node, handler: str, name: str, *args: str) -> Started:
    return await node.runtime.start_container(request(node, handler, name, *args))


async def test_a_binary_that_says_nothing_is_quoted_by_its_exit_status(node: Node) -> None:
    with pytest.raises(InitFailed, match="mute create: exit status 3, and it does not say why"):
        await start(node, "mute", "c1", "true")
    await start(node, "runc", "c2", "true")  # the pod is none the worse for it
    assert (await node.ended("c2")).exit_code == 0


WRONG_PIDS = {
    "none": "rm -f $pid",
    "words": "echo words > $pid",
    "a number that is none": "echo 99999999999999999999 > $pid",
    "nobody's": "echo 4194303 > $pid",
    "not its own": f"echo {os.getpid()} > $pid",
    "a link": f"ln -sf /proc/{os.getpid()}/stat $pid",
    "a pipe": "rm $pid; mkfifo $pid",
    "a directory": "rm $pid; mkdir $pid",
}


@pytest.mark.parametrize("verb", ["create", "exec"])
@pytest.mark.parametrize("wrong", WRONG_PIDS.values(), ids=WRONG_PIDS)
async def test_a_pid_that_can_not_be_the_containers_is_not_believed(
    node: Node, verb: str, wrong: str
) -> None:
    """Whoever has that pid would be killed with the container; and a start must have an end."""
    find = "while [ $1 != --pid-file ]; do shift; done; pid=$2"
    script(
        node.path / "liar.sh",
        f'case "$*" in *" {verb} "*) {RUNC} "$@"; {find}; {wrong}; exit 0;; esac',
    )
    if verb == "create":
        with pytest.raises(InitFailed, match="liar create: it"):
            await start(node, "liar", "c1", "sleep", "1000")
        return
    await start(node, "liar", "c1", "sleep", "1000")
    with pytest.raises(InitFailed, match="liar exec: it"):
        await node.exec("s1", "c1", "true")


@pytest.mark.parametrize(
    "log", ["head -c 60000 /dev/zero | tr '\\0' '[' > $log", "mkfifo $log", "mkdir $log"]
)
async def test_a_log_that_can_not_be_read_says_nothing(node: Node, log: str) -> None:
    find = "while [ $1 != --log ]; do shift; done; log=$2"
    script(node.path / "liar.sh", f'case "$*" in *" create "*) {find}; {log}; exit 3;; esac')
    with pytest.raises(InitFailed, match="exit status 3, and it does not say why"):
        await start(node, "liar", "c1", "true")


async def test_a_container_can_be_removed_while_its_binary_hangs(node: Node) -> None:
    starting = asyncio.create_task(start(node, "hangs", "c1", "true"))
    await until((node.path / "hangs").exists)
    await node.runtime.remove_container("s1", "c1")
    with pytest.raises(InitFailed):
        await starting


async def test_a_program_that_has_ended_before_its_start_is_told_has_run(node: Node) -> None:
    for number in range(5):
        name = f"c{number}"
        started = await start(node, "runc", name, "sh", "-c", f"echo {number}; exit {number}")
        ended = await node.ended(name)
        assert ended.exit_code == number
        assert started.started_at <= ended.finished_at
        assert node.lines(name) == [str(number)]


async def test_a_container_that_is_killed_while_it_is_started_leaves_nothing(node: Node) -> None:
    starting = asyncio.create_task(start(node, "late", "c1", "sleep", "1000"))
    await until((node.path / "late").exists)
    await node.runtime.remove_container("s1", "c1")
    with pytest.raises(InitFailed, match="late start"):
        await starting


async def test_many_commands_at_once_each_hear_their_own_end(node: Node) -> None:
    await start(node, "runc", "c1", "sleep", "1000")
    results = await asyncio.gather(
        *(
            node.runtime.exec(
                ExecRequest("s1", "c1", ("sh", "-c", f"echo {number}; exit {number}"))
            )
            for number in range(8)
        )
    )
    assert [(one.exit_code, one.stdout) for one in results] == [
        (number, f"{number}\n".encode()) for number in range(8)
    ]


async def test_a_command_that_takes_too_long_is_killed(node: Node) -> None:
    await start(node, "runc", "c1", "sleep", "1000")
    with pytest.raises(ExecTimedOut):
        await node.runtime.exec(ExecRequest("s1", "c1", ("sleep", "1001"), 0.5))
    assert b"1001" not in await node.exec("s1", "c1", "ps")


@pytest.mark.parametrize("first", ["", f'{RUNC} "$@";'], ids=["before", "after"])
async def test_a_command_takes_too_long_though_its_binary_hangs(node: Node, first: str) -> None:
    """Be it before the command was started, or after."""
    script(node.path / "liar.sh", f'case "$*" in *" exec "*) {first} exec sleep 1000;; esac')
    await start(node, "liar", "c1", "sleep", "1000")
    began = time.monotonic()
    with pytest.raises(ExecTimedOut):
        await node.runtime.exec(ExecRequest("s1", "c1", ("sleep", "1001"), 0.5))
    assert time.monotonic() - began < 10
    script(node.path / "liar.sh", "")
    assert b"1001" not in await node.exec("s1", "c1", "ps")


async def test_a_command_in_a_container_that_has_ended_is_refused(node: Node) -> None:
    await start(node, "runc", "c1", "true")
    await node.ended("c1")
    with pytest.raises(ContainerNotFound):
        await node.exec("s1", "c1", "true")


async def test_a_signal_reaches_the_program_by_the_binary(node: Node) -> None:
    await start(
        node, "runc", "c1", "sh", "-c", "trap 'exit 5' USR1; echo up; while :; do sleep 0.01; done"
    )
    await until(lambda: node.lines("c1") == ["up"])
    await node.runtime.signal("s1", "c1", signal.SIGUSR1)
    assert (await node.ended("c1")).exit_code == 5


async def test_a_cgroup_of_ours_is_where_the_binary_runs(node: Node) -> None:
    """As for runsc, whose sandbox is the container; runc is content with a cgroup that is there."""
    started = await start(node, "ours", "c1", "sleep", "1000")
    cgroup = tree.detect().cgroup(f"{node.cgroup}/s1/c1")
    assert started.pid in cgroup.pids()


async def test_a_monitor_that_is_killed_leaves_nothing_that_cannot_be_swept(node: Node) -> None:
    started = await start(node, "runc", "c1", "sleep", "1000")
    (monitor,) = (int(p.read_text().split()[0]) for p in (node.state / "monitors").glob("*/pid"))
    assert started.pid in children(monitor)
    os.kill(monitor, signal.SIGKILL)
    await until(lambda: node.lost == ["s1"])
    await node.remove("s1")
    await until(lambda: not Path(f"/proc/{started.pid}").exists())
