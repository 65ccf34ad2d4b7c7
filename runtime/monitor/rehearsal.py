"""A monitor's life, played through before the first one is forked.

CPython 3.11 rewrites the instructions that it executes, until they fit the types it has seen. What
the zygote has rewritten its monitors share; what each would rewrite for itself would be a private
copy of the page: about a third of all that a monitor doesn't share.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from runtime.cgroup.tree import Hierarchy
from runtime.cgroup.v1 import HierarchyV1
from runtime.cgroup.v2 import HierarchyV2
from runtime.codec import encode
from runtime.init import launch
from runtime.init.channel import Reporter
from runtime.init.launch import Child, Surroundings, Target
from runtime.init.values import ContainerPlan, Identity, ProcessPlan
from runtime.linux import fds
from runtime.linux.fds import Message, Socket
from runtime.linux.process import Prctl, clone3, prctl
from runtime.monitor.loop import Loop
from runtime.monitor.main import NAMESPACES, Monitor, packet
from runtime.monitor.messages import Exec, MonitorRequest, SandboxRequest, Start

_NAME = "podwright-rehearsal"
_READ = os.O_RDONLY | os.O_CLOEXEC
ROUNDS = 24  # an instruction is rewritten after 8 executions of its function, and 16 of its own
_SAMPLE_STAGES = [("stage", 0, 0)] * 24


def rehearse(hierarchy: Hierarchy, directory: Path, rounds: int = ROUNDS) -> None:
    """Plays; afterwards nothing of it is left. directory: scratch, made and removed here."""
    _remove(directory)  # who was here before may have been killed
    (directory / "exits").mkdir(parents=True)
    stage = _cgroups(hierarchy, directory)
    try:
        for _ in range(rounds):
            _play(stage, directory)
    finally:
        prctl(Prctl.SET_CHILD_SUBREAPER, 0)
        _remove(directory)


def _remove(directory: Path) -> None:
    """With all that is in it, if it is there."""
    for path, _, files in os.walk(directory, topdown=False):
        for name in files:
            os.unlink(f"{path}/{name}")
        os.rmdir(path)


def _cgroups(hierarchy: Hierarchy, directory: Path) -> Hierarchy:
    """Of the kind that the node has, but made of plain files."""
    if hierarchy.version == 2:
        return HierarchyV2(str(directory))
    return HierarchyV1(dict.fromkeys(hierarchy.controllers, str(directory)))


def _play(hierarchy: Hierarchy, directory: Path) -> None:
    monitor = Monitor(hierarchy)
    loop, pod = monitor.loop, monitor.pod
    pod.launch_container, pod.launch_process = _launch, _launch_process
    unused, listener = fds.pair()
    ours, theirs = fds.pair()
    ours.setblocking(False)  # noqa: FBT003 - the standard library's signature
    plan = os.memfd_create("rehearsal", os.MFD_CLOEXEC)
    _enter(monitor, directory, (os.dup(plan), listener.detach(), theirs.detach()))
    loop.after(0, loop.stop)
    monitor.run()
    start = _start(directory)
    run = encode(Exec(_NAME, ("true",), 1.0))
    assert isinstance(run, dict)
    cgroup = directory / _NAME
    talk: tuple[tuple[Message, tuple[int, ...]], ...] = (
        ({"id": 0, "do": "keep"}, ()),
        ({"id": 1, "do": "start", **start}, (plan,)),
        ({"id": 2, "do": "exec", **run}, (plan, plan, plan)),
        ({"id": 3, "do": "report"}, ()),
        ({"id": 4, "do": "remove", "container_id": _NAME}, ()),
        ({"id": 5, "do": "start", **start}, (plan,)),
        ({"id": 6, "do": "shutdown"}, ()),
    )
    for message, descriptors in talk:
        if message["do"] == "exec":
            cgroup.mkdir()
            for name in ("tasks", "cgroup.subtree_control"):
                (cgroup / name).touch()
        if message["id"] == 5:  # with the real one, which finds an empty plan and fails
            pod.launch_container = launch.container
        fds.send(ours, message, descriptors)
        _until_answered(loop, ours, message)
        if message["do"] == "exec":
            _remove(cgroup)
    monitor.close()
    os.close(monitor.facts.mount_fd)
    os.close(plan)
    ours.close()
    unused.close()


def _enter(monitor: Monitor, directory: Path, descriptors: tuple[int, int, int]) -> None:
    """Into the namespaces in which we are."""
    request = MonitorRequest(SandboxRequest(_NAME), str(directory))
    namespaces = [os.open(f"/proc/self/ns/{name}", _READ) for name in NAMESPACES]
    monitor.enter(packet(request), (*namespaces, *descriptors))


def _start(directory: Path) -> Message:
    request = Start(_NAME, f"/{_NAME}", log_path=str(directory / "log"), untraced=True)
    start = encode(request)
    assert isinstance(start, dict)
    return start


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
    """A child that says what an init says, and lives until it is killed."""
    ours, theirs = fds.pair()
    pid, pidfd = clone3(0)
    if pid == 0:
        prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)
        Reporter(theirs).ready(Identity(), _SAMPLE_STAGES, [])
        theirs.close()
        signal.pause()
        os._exit(0)
    theirs.close()
    return Child(pid, pidfd, ours)


def _launch_process(
    _load: Callable[[], ProcessPlan], _target: Callable[[], Target], _surroundings: Surroundings
) -> Child:
    """One that ends at once."""
    ours, theirs = fds.pair()
    pid, pidfd = clone3(0)
    if pid == 0:
        Reporter(theirs).ready(Identity(), _SAMPLE_STAGES, [])
        os._exit(0)
    theirs.close()
    return Child(pid, pidfd, ours)
