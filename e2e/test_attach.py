"""Clients at a container's own input and output."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.spdy_client import Command, SpdyClient
from e2e.websocket_client import until_said, websocket_client

TALKER = "while read line; do echo $line; echo $line >&2; done; echo over"


@contextlib.contextmanager
def attached(container: Container, *, stdin: bool = False, tty: bool = False) -> Iterator[Command]:
    """A client who sees everything from now on."""
    url = container.attach_url(stdin=stdin, tty=tty)
    channels = ["stdin"] if stdin else []
    channels += ["stdout", "resize"] if tty else ["stdout", "stderr"]
    with container.kubelet.node.inside(lambda: SpdyClient(url, "v4.channel.k8s.io")) as client:
        yield Command(client, channels)


def talker(pod: Pod, **fields: object) -> Container:
    """Says what it reads, on both outputs."""
    return pod.container(["sh", "-c", TALKER], stdin=True, **fields).start()


def until_seen(command: Command, send: Command, text: bytes) -> None:
    """Sends a line again and again until it is seen: attachments begin when they begin."""

    def seen() -> bool:
        if text not in command.received("stdout").data:
            send.send(text + b"\n")
            command.client.read()
        return text in command.received("stdout").data

    until(seen, f"{text!r} is seen")


def test_input_and_both_outputs_are_the_containers(pod: Pod) -> None:
    container = talker(pod)
    with attached(container, stdin=True) as client:
        client.send(b"hello\n")
        client.until_said(b"hello\n")
        client.client.until(lambda: b"hello\n" in client.received("stderr").data)
    assert container.log("stdout")[0] == container.log("stderr")[0] == "hello"


def test_many_see_the_same_and_the_log_has_it_once(pod: Pod) -> None:
    container = talker(pod)
    with (
        attached(container, stdin=True) as first,
        attached(container) as second,
        attached(container) as third,
    ):
        until_seen(second, first, b"is anybody")
        until_seen(third, first, b"there")
        first.send(b"yes\n")
        for client in (first, second, third):
            client.until_said(b"yes\n")
    assert container.log("stdout").count("yes") == 1


def test_it_is_the_same_over_websocket(pod: Pod) -> None:
    container = talker(pod)
    url = container.attach_url(stdin=True)

    def play() -> None:
        with websocket_client(url) as client:
            client.write_stdin(b"hello\n")
            until_said(client, b"hello\n")

    container.kubelet.node.inside(play)
    assert container.log("stdout") == ["hello"]


def test_the_end_of_input_that_is_for_one_ends_the_containers_input(pod: Pod) -> None:
    container = talker(pod, stdin_once=True)
    with attached(container, stdin=True) as client:
        client.send(b"hello\n")
        client.until_said(b"hello\n")
        client.end_input()
        result = client.result()
    assert result.stdout == b"hello\nover\n"
    assert container.wait().exit_code == 0


def test_input_that_is_for_one_ends_when_its_client_leaves_without_a_word(pod: Pod) -> None:
    container = talker(pod, stdin_once=True)
    with attached(container, stdin=True) as client:
        client.send(b"hello\n")
        client.until_said(b"hello\n")
    assert container.wait().exit_code == 0
    assert container.log("stdout") == ["hello", "over"]


def test_input_that_is_for_many_outlives_each(pod: Pod) -> None:
    container = talker(pod)
    for word in (b"one", b"two"):
        with attached(container, stdin=True) as client:
            client.send(word + b"\n")
            client.until_said(word)
            client.end_input()
    until(lambda: container.log("stdout") == ["one", "two"], "both are logged")


def test_a_terminal_is_shared_and_has_a_size(pod: Pod) -> None:
    container = pod.container(
        ["sh", "-c", "read x; stty size; read x; echo bye"], stdin=True, tty=True
    ).start()
    with attached(container, stdin=True, tty=True) as client:
        client.resize(111, 33)
        client.send(b"\n")
        client.until_said(b"33 111")
        client.send(b"\n")
        assert client.result().stdout.endswith(b"bye\r\n")
    assert container.wait().exit_code == 0


def test_a_client_that_leaves_leaves_the_container_alone(pod: Pod) -> None:
    container = talker(pod)
    with attached(container, stdin=True) as client:
        client.send(b"hello\n")
        client.until_said(b"hello\n")
    with attached(container, stdin=True) as client:
        client.send(b"again\n")
        client.until_said(b"again\n")


def test_a_client_that_stops_reading_holds_up_neither_log_nor_container(pod: Pod) -> None:
    script = "read x; dd if=/dev/zero bs=1000000 count=64 2>/dev/null | tr '\\0' x; echo; echo end"
    container = pod.container(["sh", "-c", script], stdin=True).start()
    with attached(container, stdin=True) as deaf:
        deaf.send(b"\n")
        assert container.wait(60).exit_code == 0
        assert container.log("stdout")[-1] == "end"
        status = deaf.result(60).json()
    assert status["status"] == "Failure"
    assert "detached" in status["message"]
    assert "internal error" not in status["message"]


def test_the_containers_end_ends_the_attachment(pod: Pod) -> None:
    container = pod.container(["sh", "-c", "read x; echo last; exit 3"], stdin=True).start()
    with attached(container, stdin=True) as client:
        client.send(b"\n")
        result = client.result()
    assert result.stdout == b"last\n"
    assert result.json()["status"] == "Success"


def test_a_daemon_that_is_killed_may_be_attached_to_again(kubelet: Kubelet, pod: Pod) -> None:
    container = talker(pod)
    with attached(container, stdin=True) as client:
        client.send(b"before\n")
        client.until_said(b"before\n")
        kubelet.node.restart_daemon(how=signal.SIGKILL)
    with attached(container, stdin=True) as client:
        client.send(b"after\n")
        client.until_said(b"after\n")
    assert container.log("stdout") == ["before", "after"]


@pytest.mark.parametrize(
    ("fields", "asked", "said"),
    [
        ({"tty": True}, {"tty": False}, "has a terminal"),
        ({}, {"tty": True}, "has no terminal"),
        ({}, {"stdin": True}, "stdin: true"),
    ],
)
def test_what_a_container_does_not_have_is_refused(
    pod: Pod, fields: dict[str, Any], asked: dict[str, bool], said: str
) -> None:
    container = pod.container(**fields).start()
    error = refused(lambda: container.attach_url(**asked))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert said in error.message
