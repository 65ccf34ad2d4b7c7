"""Containers of containerd's shim for runc, under a real monitor."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
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
    Runtime,
    Started,
    StreamedExec,
)
from runtime.linux.process import kill_and_wait
from runtime.monitor.shim.plan import MARK
from runtime.tests.node import Node, spawner_pid, until

SHIM = shutil.which("containerd-shim-runc-v2", path="/usr/bin:/usr/local/bin") or ""
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not SHIM, reason="needs the shim: `apt-get install containerd`"),
]


def script(path: Path, before: str) -> str:
    """A shim that does something before it does what runc's does; and is called as that is."""
    path.mkdir()
    program = path / "containerd-shim-runc-v2"
    program.write_text(f'#!/bin/sh\n{before}\nexec {SHIM} "$@"\n')
    program.chmod(0o755)
    return os.fspath(program)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A runtime with handlers; afterwards nothing of them may be left."""
    mute = 'case "$*" in *start*) exit 3;; esac'
    liar = 'case "$*" in *start*) echo "\\0containerd-shim/x"; exit 0;; esac'
    handlers = {
        "shim": ShimV2("shim", SHIM),
        "machine": ShimV2("machine", SHIM, sandbox_task=True),
        "mute": ShimV2("mute", script(tmp_path / "mute", mute)),
        "liar": ShimV2("liar", script(tmp_path / "liar", liar)),
        "norunc": ShimV2("norunc", SHIM, options={"BinaryName": "/no/such/runc"}),
    }
    node = Node(tmp_path)
    node.runtime = Runtime(
        node.state,
        node.netns_dir,
        on_exit=node._ended,
        on_lost=node.lost.append,
        handlers=handlers,
    )
    await node.runtime.start()
    await node.create("s1")
    yield node
    await node.remove("s1")
    await node.runtime.close()
    await asyncio.to_thread(kill_and_wait, os.pidfd_open(await spawner_pid(node)))
    assert node.leftovers() == []
    assert [pid for pid in shims("s1") if alive(pid)] == []
    for top in tree.mount_points():  # runc makes it in hierarchies that are not ours, too
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(top + node.cgroup)


def shims(sandbox_id: str) -> list[int]:
    """Processes of the sandbox's shim."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={sandbox_id}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def request(node: Node, handler: str, name: str, *args: str) -> ContainerRequest:
    return dataclasses.replace(node.request("s1", name, *args), handler=handler)


async def start(node: Node, handler: str, name: str, *args: str) -> Started:
    return await node.runtime.start_container(request(node, handler, name, *args))


async def test_a_program_runs_and_its_output_and_end_are_kept(node: Node) -> None:
    started = await start(node, "shim", "c1", "sh", "-c", "echo out; echo err >&2; exit 7")
    ended = await node.ended("c1")
    assert ended.exit_code == 7
    assert started.started_at <= ended.finished_at
    assert sorted(node.lines("c1")) == ["err", "out"]


async def test_containers_of_a_pod_have_one_shim(node: Node) -> None:
    for name in ("c1", "c2", "c3"):
        await start(node, "shim", name, "sleep", "1000")
    assert len(shims("s1")) == 1
