"""A monitor's life, played through before the first one is forked.

CPython 3.11 rewrites the instructions that it executes, until they fit the types it has seen. What
the zygote has rewritten its monitors share; what each would rewrite for itself would be a private
copy of the page: about a third of all that a monitor doesn't share.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from runtime.cgroup.tree import Hierarchy
from runtime.codec import encode
from runtime.init import launch
from runtime.init.channel import Reporter
from runtime.init.launch import Child, Surroundings
from runtime.init.values import ContainerPlan, Identity
from runtime.linux import fds
from runtime.linux.fds import Message, Socket
from runtime.linux.process import clone3
from runtime.monitor.loop import Loop
from runtime.monitor.messages import Start
from runtime.monitor.pod import Facts, Pod
from runtime.monitor.server import Server

ROUNDS = 24  # an instruction is rewritten after 8 executions of its function, and 16 of its own
_SAMPLE_STAGES = [("stage", 0, 0)] * 24


def rehearse(hierarchy: Hierarchy, directory: Path) -> None:
    """Plays; afterwards nothing of it is left. directory: scratch, made and removed here."""
    (directory / "exits").mkdir(parents=True, exist_ok=True)
    for _ in range(ROUNDS):
        _play(hierarchy, directory)
    (directory / "log").unlink()
    (directory / "exits").rmdir()
    directory.rmdir()


def _play(hierarchy: Hierarchy, directory: Path) -> None:
    loop = Loop()
    facts = Facts("rehearsal", str(directory), "", "", shared_pids=False, mount_fd=-1)
    pod = Pod(facts, hierarchy, loop, _launch)
    listener, unused = fds.pair()
    ours, theirs = fds.pair()
    ours.setblocking(False)  # noqa: FBT003 - the standard library's signature
    server = Server(pod, listener, loop)
    server.add(theirs)
    plan = os.memfd_create("rehearsal", os.MFD_CLOEXEC)
    log_path = str(directory / "log")
    start = encode(Start("rehearsal", "/podwright-rehearsal", log_path=log_path, untraced=True))
    assert isinstance(start, dict)
    for message, descriptors in (
        ({"id": 0, "do": "keep"}, ()),
        ({"id": 1, "do": "start", **start}, (plan,)),
        ({"id": 2, "do": "report"}, ()),
        ({"id": 3, "do": "remove", "container_id": "rehearsal"}, ()),
        ({"id": 4, "do": "start", **start}, (plan,)),
        ({"id": 5, "do": "shutdown"}, ()),
    ):
        if message["id"] == 4:  # with the real one, which finds an empty plan and fails
            pod.launch_container = launch.container
        fds.send(ours, message, descriptors)
        _until_answered(loop, ours, message)
    loop.close()
    pod.reaper.close()
    os.close(plan)
    for peer in (ours, theirs, listener, unused):
        peer.close()


def _until_answered(loop: Loop, peer: Socket, message: Message) -> None:
    loop.step()
    while message["id"]:
        try:
            received = fds.receive(peer)
        except BlockingIOError:
            loop.step()
        else:
            if received is None or received[0].get("id") == message["id"]:
                return


def _launch(_load: Callable[[], ContainerPlan], _surroundings: Surroundings) -> Child:
    """A child that says what an init says, and ends."""
    ours, theirs = fds.pair()
    pid, pidfd = clone3(0)
    if pid == 0:
        Reporter(theirs).ready(Identity(), _SAMPLE_STAGES, [])
        os._exit(0)
    theirs.close()
    return Child(pid, pidfd, ours)
