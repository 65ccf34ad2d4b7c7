"""Seccomp filters that ask an agent of the node: by plugins, and by profiles in files."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cri.api import api_pb2 as api
from e2e import nri
from e2e.kubelet import Pod, refused, until
from e2e.node import Node
from e2e.nri import Plugins
from e2e.test_nri import adjusting, linux

RECEIVE, SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_*
CALLS = ["mkdir", "mkdirat"]


@pytest.fixture
def plugins(node: Node) -> Iterator[Plugins]:
    with nri.plugins(node) as made:
        yield made


@dataclass
class Agent:
    """Says to every call that is reported that it has succeeded, without doing it."""

    path: Path
    told: list[dict[str, Any]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                data, descriptors, _, _ = socket.recv_fds(peer, 65536, 1)
            self.told.append(json.loads(data))
            threading.Thread(target=self._answer, args=descriptors, daemon=True).start()

    def _answer(self, fd: int) -> None:
        """Until nobody has the filter any more."""
        with contextlib.suppress(OSError):
            while True:
                asked = array.array("B", bytes(80))
                fcntl.ioctl(fd, RECEIVE, asked)
                number, pid = struct.unpack_from("QI", asked)
                self.calls.append(pid)
                fcntl.ioctl(fd, SEND, struct.pack("Qqii", number, 0, 0, 0))
        os.close(fd)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    path = tmp_path / ("deep" * 20) / "agent.sock"
    path.parent.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    fd = os.open(path.parent, os.O_PATH)
    listener.bind(f"/proc/self/fd/{fd}/agent.sock")
    os.close(fd)
    listener.listen()
    made = Agent(path)
    thread = threading.Thread(target=made.serve, args=(listener,), daemon=True)
    thread.start()
    yield made
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def policy(path: Path, *calls: str, key: str = "listener_path") -> dict[str, Any]:
    rule = {"names": calls or CALLS, "action": "SCMP_ACT_NOTIFY"}
    default = "default_action" if key == "listener_path" else "defaultAction"
    return {default: "SCMP_ACT_ALLOW", "syscalls": [rule], key: str(path)}


def test_a_command_in_sight_of_one_that_traces_has_its_own_listener(
    pod: Pod, plugins: Plugins, agent: Agent
) -> None:
    plugins("asker", create=linux(seccomp_policy=policy(agent.path)))
    config = api.LinuxContainerConfig()
    config.security_context.capabilities.add_capabilities.append("SYS_PTRACE")
    container = pod.container(linux=config).start()
    assert container.shell("mkdir /y; ls / | grep -cx y; true") == "0"
    assert len(agent.told) == 2


@pytest.mark.parametrize("privileges", [True, False])
def test_an_agent_answers_for_a_container_and_for_what_is_executed_in_it(
    pod: Pod, plugins: Plugins, agent: Agent, *, privileges: bool
) -> None:
    plugins(
        "asker",
        create=adjusting(
            annotations={"a": "1"},
            linux={"seccomp_policy": {**policy(agent.path), "listener_metadata": "who"}},
        ),
    )
    config = api.LinuxContainerConfig()
    config.security_context.no_new_privs = not privileges
    container = pod.container(["sh", "-c", "mkdir /x; ls -d /x; sleep 1000"], linux=config).start()
    pid = json.loads(container.response(verbose=True).info["info"])["pid"]
    until(lambda: len(agent.told) == 1, "the agent has read what it is told")
    (told,) = agent.told
    assert (told["fds"], told["metadata"], told["pid"]) == (["seccompFd"], "who", pid)
    state = told["state"]
    assert (state["id"], state["status"], state["pid"]) == (container.id, "creating", pid)
    assert state["annotations"]["a"] == "1"
    assert container.shell("mkdir /y && ls / | grep -cx y; true") == "0"
    assert len(agent.told) == 2
    assert agent.told[1]["pid"] != pid
    assert agent.told[1]["state"]["pid"] == pid
    assert len(agent.calls) >= 2


def test_a_profile_in_a_file_may_ask_an_agent(pod: Pod, agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(policy(agent.path, key="listenerPath")))
    config = api.LinuxContainerConfig()
    config.security_context.seccomp.profile_type = api.SecurityProfile.Localhost
    config.security_context.seccomp.localhost_ref = str(file)
    container = pod.container(linux=config).start()
    assert container.shell("mkdir /y; ls / | grep -cx y; true") == "0"


def test_with_hooks_it_is_the_same(
    pod: Pod, plugins: Plugins, agent: Agent, tmp_path: Path
) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    wish = adjusting(
        hooks={"create_runtime": [{"path": str(hook)}]},
        linux={"seccomp_policy": policy(agent.path)},
    )
    plugins("asker", create=wish)
    container = pod.container().start()
    assert (tmp_path / "ran").exists()
    assert container.shell("mkdir /y; ls / | grep -cx y; true") == "0"


def test_without_an_agent_nothing_starts(pod: Pod, plugins: Plugins, tmp_path: Path) -> None:
    plugins("asker", create=linux(seccomp_policy=policy(tmp_path / "nobody")))
    container = pod.container()
    error = refused(container.start)
    assert f'listenerPath "{tmp_path}/nobody": nobody there takes the listener' in error.message
    assert container.status().state == api.CONTAINER_EXITED


@pytest.mark.parametrize(
    ("calls", "words"),
    [(("read",), "SCMP_ACT_NOTIFY for read"), (("mkdir", "write"), "SCMP_ACT_NOTIFY for write")],
)
def test_what_hands_the_listener_over_is_nobodys_to_answer(
    pod: Pod, plugins: Plugins, agent: Agent, calls: tuple[str, ...], words: str
) -> None:
    plugins("asker", create=linux(seccomp_policy=policy(agent.path, *calls)))
    assert words in refused(pod.container).message
