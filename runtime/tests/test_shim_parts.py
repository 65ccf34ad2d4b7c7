"""What a shim is given, says and is asked: without a shim."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.errors import RuntimeFault
from runtime.handlers import features, shim_options, shim_v2
from runtime.linux import fds, marks
from runtime.monitor.loop import Loop
from runtime.monitor.shim import pause
from runtime.monitor.shim.events import METHOD, SERVICE, Events
from runtime.monitor.shim.link import Link, TookTooLong
from runtime.monitor.shim.output import where
from runtime.monitor.shim.task_pb2 import (
    Any,
    BootstrapResult,
    Empty,
    Envelope,
    ForwardRequest,
    PidResponse,
    ProcessRequest,
    RuncOptions,
    RuntimeOptions,
    TaskOOM,
)
from runtime.spec import Linux, Mount, Namespace, Process, Resources, Spec
from runtime.ttrpc.calls import Answer, Answering, Asking, Question, reply
from runtime.ttrpc.errors import CallFailed

RUNC, KATA = "/usr/bin/containerd-shim-runc-v2", "/opt/kata/bin/containerd-shim-kata-v2"
V2, V3 = "containerd.task.v2.Task", "containerd.task.v3.Task"


def test_options_go_by_containerds_names_into_the_message_that_the_shim_reads() -> None:
    kind, data = shim_options.message(RUNC, {"BinaryName": "/usr/bin/crun", "IoUid": 7})
    assert kind == "containerd.runc.v1.Options"
    assert RuncOptions.FromString(data) == RuncOptions(binary_name="/usr/bin/crun", io_uid=7)
    kind, data = shim_options.message(KATA, {"ConfigPath": "/etc/kata.toml", "ConfigBody": "a=1"})
    assert kind == "runtimeoptions.v1.Options"
    expected = RuntimeOptions(config_path="/etc/kata.toml", config_body=b"a=1")
    assert RuntimeOptions.FromString(data) == expected
    assert shim_options.message(KATA, {}) == ("", b"")


@pytest.mark.parametrize(
    ("binary", "options", "words"),
    [
        (RUNC, {"SystemdCgroup": True}, "SystemdCgroup: this shim's options are NoPivotRoot"),
        (RUNC, {"binary_name": "x"}, "binary_name: this shim's options are"),
        (RUNC, {"BinaryName": 1}, "BinaryName = 1: of another type"),
        (KATA, {"BinaryName": "x"}, "options are TypeUrl, ConfigPath, ConfigBody"),
    ],
)
def test_options_that_nobody_would_honour_are_refused(
    binary: str, options: shim_options.Options, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        shim_options.message(binary, options)


def test_a_shim_can_do_what_it_calls_can_do(tmp_path: Path) -> None:
    shim, program = tmp_path / "containerd-shim-runc-v2", tmp_path / "runtime"
    for path in (shim, program):
        path.write_text('#!/bin/sh\necho \'{"mountOptions": ["rro"]}\'\n')
        path.chmod(0o755)
    assert features.of_shim(str(shim), {"BinaryName": str(program)}).recursive_read_only
    missing = features.of_shim(str(shim), {"BinaryName": "/no/such/runc"})
    assert "there is no program /no/such/runc" in missing.problem
    assert "install it" in features.of_shim("/no/such/shim", {}).problem
    assert features.of_shim(str(program), {}) == features.Features()  # it would have to be asked


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b"unix:///run/containerd/s/ab\n", (V2, "/run/containerd/s/ab")),
        (b'{"version":2,"address":"unix:///a","protocol":"ttrpc"}', (V2, "/a")),
        (b'{"version":3,"address":"unix:///a","protocol":"ttrpc"}', (V3, "/a")),
        (
            BootstrapResult(version=3, address="unix:///a", protocol="ttrpc").SerializeToString(),
            (V3, "/a"),
        ),
    ],
)
def test_where_a_shim_listens_is_said_in_three_ways(said: bytes, found: tuple[str, str]) -> None:
    assert where(said) == found


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "start has printed no address"),
        (b"\xff\xff", "start has printed no address"),
        (b"{", "start has printed no address"),
        (b'{"address":' + b"[" * 60000, "start has printed no address"),
        (b'{"version":4,"address":"unix:///a","protocol":"ttrpc"}', "ttrpc version 4"),
        (b'{"version":"x","address":"unix:///a"}', "start has printed no address"),
        (b'{"version":3,"address":"unix:///a","protocol":"grpc"}', "speaks grpc version 3"),
        (b'{"version":3,"address":"vsock://3:1","protocol":"ttrpc"}', "not a socket with a path"),
        (b"unix://@abstract", "not a socket with a path"),
    ],
)
def test_a_shim_that_can_not_be_reached_safely_is_refused(said: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        where(said)


def test_the_sandbox_task_has_the_pods_namespaces_and_nothing_of_its_containers() -> None:
    spec = Spec(
        Process(("sh",), env=("SECRET=1",), cwd="/work"),
        mounts=(Mount("/proc", "proc", "proc"), Mount("/data", source="/data")),
        annotations={
            "io.kubernetes.cri.container-name": "web",
            "io.kubernetes.cri.container-type": "sandbox",  # a pod's own annotation can't claim it
            "io.kubernetes.cri.sandbox-name": "pod",
        },
        linux=Linux(
            (Namespace("network"), Namespace("pid")),
            cgroups_path="/kubepods/pod1/cri-c1.scope/container",
            resources=Resources(unified={"pids.max": "3"}),
        ),
    )
    made = shim_v2.sandbox_spec(shim_v2.labelled(spec, "s1", "container"), "s1")
    assert made.process.args == ("/pause",)
    assert "SECRET" not in str(made)
    assert [mount.destination for mount in made.mounts] == ["/proc"]
    assert made.linux.namespaces == spec.linux.namespaces
    assert (made.linux.cgroups_path, made.linux.resources) == ("/kubepods/pod1/s1", Resources())
    assert made.annotations == {
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-id": "s1",
        "io.kubernetes.cri.sandbox-name": "pod",
    }
    container = shim_v2.labelled(spec, "s1", "container")
    assert container.annotations["io.kubernetes.cri.container-type"] == "container"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_sandbox_program_waits_until_it_is_killed(machine: str, tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(pause.program(machine))
    program.chmod(0o755)
    header = program.read_bytes()[:20]
    assert (header[:4], header[18]) == (b"\x7fELF", {"x86_64": 62, "aarch64": 183}[machine])
    if machine != platform.machine():
        return  # nobody here can run it
    with subprocess.Popen([program]) as running:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.3)
        used = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        running.send_signal(signal.SIGTERM)
    assert used == ["0", "0"]  # ticks
    assert running.returncode == -signal.SIGTERM


def test_there_is_no_sandbox_program_for_a_machine_that_nobody_has_written_it_for() -> None:
    with pytest.raises(ValueError, match="no sandbox program for m68k, only for x86_64 and"):
        pause.program("m68k")


def until(loop: Loop, found: Callable[[], object]) -> None:
    for _ in range(100):
        if found():
            return
        loop.after(0.05, lambda: None)  # step() waits no longer
        loop.step()
    raise AssertionError("it does not come")


def test_an_event_tells_which_container_has_run_out_of_memory(tmp_path: Path) -> None:
    told: list[str] = []
    loop = Loop()
    listener = fds.bind(str(tmp_path / "events"), socket.SOCK_STREAM)
    events = Events(loop, fds.adopt(listener.detach()), told.append)
    event = Any(
        type_url="containerd.events.TaskOOM", value=TaskOOM(container_id="c1").SerializeToString()
    )
    envelopes = (
        Envelope(topic="/tasks/oom", event=event),
        Envelope(topic="/tasks/exit", event=event),
    )
    asking, answers = Asking(), list[Answer]()
    with fds.connect(str(tmp_path / "events"), socket.SOCK_STREAM) as shim:
        shim.setblocking(False)
        for envelope in envelopes:
            payload = ForwardRequest(envelope=envelope).SerializeToString()
            shim.sendall(asking.ask(SERVICE, METHOD, payload)[1])
        shim.sendall(asking.ask(SERVICE, "Publish", b"")[1])
        shim.sendall(asking.ask(SERVICE, METHOD, b"\xff")[1])

        def hear() -> bool:
            with contextlib.suppress(BlockingIOError):
                answers.extend(asking.feed(shim.recv(4096)))
            return len(answers) == 4

        until(loop, hear)
        assert told == ["c1"]
        assert [str(answer.failure or "")[:8] for answer in answers] == [
            "",
            "",
            "there is",
            "no event",
        ]
        shim.setblocking(True)
        shim.sendall(b"\xff" * 64)  # nonsense, for which it is hung up on
        until(loop, lambda: readable(shim))
        assert shim.recv(10) == b""
    events.close()
    loop.close()


def readable(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        peer.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


class Shim:
    """A link, and the other end of it."""

    def __init__(self) -> None:
        self.loop = Loop()
        ours, self.peer = socket.socketpair()
        self.ends: list[str] = []
        self.heard: list[object] = []
        self.link = Link(self.loop, fds.adopt(ours.detach()), V2, self.ends.append)
        self._answering = Answering()

    def call(self, method: str, *, patience: float = 0.0) -> int:
        told = self.heard.append, self.heard.append
        return self.link.call(method, ProcessRequest(id="c"), PidResponse, told, patience=patience)

    def question(self) -> Question:
        (question,) = self._answering.feed(self.peer.recv(65536))
        assert isinstance(question, Question)
        return question


@pytest.fixture
def shim() -> Iterator[Shim]:
    one = Shim()
    yield one
    one.link.close()
    one.peer.close()
    one.loop.close()


def test_a_call_hears_its_own_answer(shim: Shim) -> None:
    shim.call("Create")
    question = shim.question()
    assert (question.service, question.method, question.timeout) == (V2, "Create", 0.0)
    shim.call("Start", patience=5.0)
    second = shim.question()
    assert second.timeout == 5.0
    shim.peer.sendall(reply(second.stream, PidResponse(pid=2).SerializeToString()))
    shim.peer.sendall(reply(question.stream, PidResponse(pid=1).SerializeToString()))
    until(shim.loop, lambda: len(shim.heard) == 2)
    assert shim.heard == [PidResponse(pid=2), PidResponse(pid=1)]


def test_a_call_that_is_not_answered_in_time_fails_and_a_late_answer_is_passed_over(
    shim: Shim,
) -> None:
    shim.call("Kill", patience=0.05)
    late = shim.question()
    until(shim.loop, lambda: shim.heard)
    assert [type(one) for one in shim.heard] == [TookTooLong]
    shim.peer.sendall(reply(late.stream, b""))
    forgotten = shim.call("Wait")
    shim.link.forget(forgotten)
    shim.peer.sendall(reply(shim.question().stream, b""))
    shim.call("State")
    shim.peer.sendall(reply(shim.question().stream, Empty().SerializeToString()))
    until(shim.loop, lambda: len(shim.heard) == 2)
    assert shim.heard[1:] == [PidResponse()]


@pytest.mark.parametrize("last", [b"", b"\xff" * 20])
def test_everyone_who_waits_hears_of_the_end(shim: Shim, last: bytes) -> None:
    shim.call("Wait")
    shim.call("Start", patience=60.0)
    shim.peer.sendall(last)
    shim.peer.shutdown(socket.SHUT_WR)
    until(shim.loop, lambda: shim.ends)
    assert len(shim.heard) == 2
    assert all("the shim is gone" in str(one) for one in shim.heard)
    shim.call("Kill")
    until(shim.loop, lambda: len(shim.heard) == 3)
    assert isinstance(shim.heard[2], RuntimeFault)
    assert not isinstance(shim.heard[2], CallFailed)
    assert len(shim.ends) == 1


def test_requests_wait_until_a_slow_shim_reads_them(shim: Shim) -> None:
    for _ in range(40):
        request = ProcessRequest(id="x" * 50_000)
        told = shim.heard.append, shim.heard.append
        shim.link.call("Exec", request, Empty, told)  # 2 MB: more than a socket takes
    shim.peer.setblocking(False)
    answering, questions = Answering(), list[Question | bytes]()

    def read() -> bool:
        with contextlib.suppress(BlockingIOError):
            questions.extend(answering.feed(shim.peer.recv(1 << 20)))
        return len(questions) == 40

    until(shim.loop, read)
    sizes = {len(one.payload) for one in questions if isinstance(one, Question)}
    assert sizes == {50_004}


def test_processes_are_found_by_a_mark_in_their_environment() -> None:
    value = f"test-{os.getpid()}"
    script = "sleep 1000 & sleep 1000 & wait"
    env = {"PODWRIGHT_MARK": value, "PATH": os.environ["PATH"]}
    marked = subprocess.Popen(["sh", "-c", script], env=env, start_new_session=True)
    other = subprocess.Popen(["sleep", "1000"], env={**env, "PODWRIGHT_MARK": value + "x"})
    try:
        marks.kill("PODWRIGHT_MARK", value)
        assert marked.wait(5) == -signal.SIGKILL
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.2)
    finally:
        other.kill()
        other.wait()
