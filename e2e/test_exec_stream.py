"""Commands whose input and output travel: what `kubectl exec` and `crictl exec` stand on."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.spdy_client import Command, SpdyClient
from e2e.websocket_client import until_said, websocket_client

PLAIN = ("stdin", "stdout", "stderr")
TERMINAL = ("stdin", "stdout", "resize")
SUCCESS = '{"metadata":{},"status":"Success"}'


@pytest.fixture
def container(pod: Pod) -> Container:
    return pod.container().start()


def connected(container: Container, url: str) -> SpdyClient:
    """A client on the node."""
    return container.kubelet.node.inside(lambda: SpdyClient(url, "v4.channel.k8s.io"))


@contextlib.contextmanager
def command(container: Container, *args: str, tty: bool = False) -> Iterator[Command]:
    """A command that has begun, with all its channels."""
    with connected(container, container.exec_url(*args, tty=tty)) as client:
        yield Command(client, TERMINAL if tty else PLAIN)


def running(kubelet: Kubelet, words: str) -> bool:
    return any(line == words for line in kubelet.node.processes().values())


def test_input_comes_back_from_cat_and_its_end_ends_cat(container: Container) -> None:
    with command(container, "cat") as cat:
        cat.send(b"hello")
        cat.until_said(b"hello")
        cat.end_input()
        result = cat.result()
        assert (result.stdout, result.stderr, result.status) == (b"hello", b"", SUCCESS)


def test_output_and_errors_are_kept_apart(container: Container) -> None:
    with command(container, "sh", "-c", "echo out; echo err >&2") as both:
        assert both.result().stdout == b"out\n"
        assert both.result().stderr == b"err\n"


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_the_exit_code_arrives(container: Container, script: str, code: int) -> None:
    with command(container, "sh", "-c", script) as ending:
        assert ending.result().exit_code == code


def test_it_is_the_same_over_websocket(container: Container) -> None:
    url = container.exec_url("sh", "-c", "cat; echo end >&2; exit 3")

    def play() -> None:
        with websocket_client(url) as client:
            client.write_stdin(b"hello")
            until_said(client, b"hello")
            client.close_channel(0)
            client.run_forever(timeout=10)
            assert client.read_channel(2) == b"end\n"
            assert client.returncode == 3

    container.kubelet.node.inside(play)


@pytest.mark.parametrize("name", ["no-such-command", "/bin/none"])
def test_a_command_that_does_not_exist_is_told(container: Container, name: str) -> None:
    with command(container, name) as missing:
        status = missing.result().json()
    assert status["reason"] == "InternalError"
    assert name in status["message"]


def test_a_terminal_has_the_clients_size_and_is_told_of_changes(container: Container) -> None:
    script = "trap 'stty size' WINCH; echo ready; read x; stty size; while :; do sleep 0.1; done"
    with command(container, "sh", "-c", script, tty=True) as shell:
        shell.until_said(b"ready")
        shell.resize(123, 45)
        shell.until_said(b"45 123")  # by the signal
        shell.send(b"\n")
        shell.resize(80, 24)
        shell.until_said(b"24 80")
        shell.send(b"\x03")  # Control-C
        assert shell.result().exit_code == 130


def test_64_mib_go_through_both_ways_unchanged(container: Container) -> None:
    piece = bytes(range(256)) * 1024
    count = (64 << 20) // len(piece)
    wanted = hashlib.sha256()
    with command(container, "cat") as cat:

        def send() -> None:
            for number in range(count):
                data = struct.pack(">Q", number) + piece[8:]
                wanted.update(data)
                cat.send(data)
            cat.end_input()

        sender = threading.Thread(target=send)
        sender.start()
        result = cat.result(60)
        sender.join()
    assert hashlib.sha256(result.stdout).digest() == wanted.digest()
    assert result.exit_code == 0


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_leaves_no_process(
    kubelet: Kubelet, container: Container, how: str
) -> None:
    with command(container, "sh", "-c", "sleep 515151 & echo here; sleep 525252") as left:
        left.until_said(b"here")
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            left.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    until(lambda: not running(kubelet, "sleep 525252"), "the command is gone")
    until(lambda: not running(kubelet, "sleep 515151"), "what it had started is gone")
    assert running(kubelet, "sleep 1000000"), "the container is not"


def test_what_a_command_leaves_behind_does_not_keep_the_stream(container: Container) -> None:
    started = time.monotonic()
    with command(container, "sh", "-c", "echo done; sleep 100 & exit 4") as short:
        result = short.result()
    assert (result.stdout, result.exit_code) == (b"done\n", 4)
    assert time.monotonic() - started < 5


def test_a_command_ends_with_its_container_and_says_how(container: Container) -> None:
    with command(container, "sh", "-c", "echo here; exec sleep 1000") as waiting:
        waiting.until_said(b"here")
        container.stop()
        assert waiting.result().exit_code == 137


def test_the_daemons_end_ends_a_stream_and_its_command_but_no_container(
    kubelet: Kubelet, container: Container
) -> None:
    with command(container, "sh", "-c", "echo here; exec sleep 535353") as waiting:
        waiting.until_said(b"here")
        kubelet.node.restart_daemon()
        assert "podwright is ending" in waiting.result().status
    until(lambda: not running(kubelet, "sleep 535353"), "the command is gone")
    assert container.shell("echo alive") == "alive"


def test_a_daemon_that_is_killed_leaves_no_command(kubelet: Kubelet, container: Container) -> None:
    with command(container, "sh", "-c", "echo here; exec sleep 545454") as waiting:
        waiting.until_said(b"here")
        kubelet.node.restart_daemon(how=signal.SIGKILL)
        while waiting.client.read():
            pass
    until(lambda: not running(kubelet, "sleep 545454"), "the command is gone")
    with command(container, "echo", "again") as again:
        assert again.result().stdout == b"again\n"


def test_a_container_that_ends_before_its_client_comes_is_told(pod: Pod) -> None:
    container = pod.container().start()
    url = container.exec_url("true")
    container.stop()
    with connected(container, url) as client:
        status = Command(client, PLAIN).result().json()
    assert "has ended" in status["message"]


def test_what_can_not_be_streamed_is_refused_by_name(container: Container, pod: Pod) -> None:
    def ask(**fields: object) -> grpc.StatusCode:
        asked = {"container_id": container.id, "cmd": ["true"], "stdout": True, **fields}
        request = api.ExecRequest(**asked)  # type: ignore[arg-type]  # fields by name
        call = container.kubelet.client.call
        return refused(lambda: call("Exec", request, api.ExecResponse)).code

    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert ask(cmd=[]) is invalid
    assert ask(cmd=[""]) is invalid
    assert ask(container_id="") is invalid
    assert ask(tty=True, stderr=True) is invalid
    assert ask(stdout=False) is invalid
    assert ask(container_id="d" * 64) is grpc.StatusCode.NOT_FOUND
    created = pod.container()
    assert ask(container_id=created.id) is grpc.StatusCode.FAILED_PRECONDITION
