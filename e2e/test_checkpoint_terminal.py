"""Containers with a terminal go on with another one, of the same size and settings."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.checkpoints import counting, members, restored, rewritten, write
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.test_attach import attached
from e2e.test_container import security
from runtime.init.capabilities import held

SYS_RESOURCE = 1 << 24  # what CRIU needs to read the limits of another user's process
TALK = 'stty -echo; while read line; do echo "$line $(stty size) $(tty)"; done'


def talking(pod: Pod) -> Container:
    """Repeats what it reads from a terminal that does not."""
    container = pod.container(["sh", "-c", TALK], stdin=True, tty=True).start()
    until(lambda: "-echo" in container.shell("stty -F /dev/console -a"), "it talks")
    return container


def test_a_terminal_is_had_again(criu: Kubelet, archive: Path) -> None:
    first = talking(criu.pod())
    with attached(first, stdin=True, tty=True) as client:
        client.resize(91, 23)
        client.send(b"before\n")
        until(lambda: "before 23 91 /dev/pts/0" in first.log(), "it talks")
    write(first, archive)
    second = restored(criu.pod(), archive, stdin=True, tty=True).start()
    with attached(second, stdin=True, tty=True) as client:
        client.send(b"after\n")
        client.until_said(b"after 23 91 /dev/pts/0\r\n")
        client.resize(70, 20)
        client.send(b"again\n")
        client.until_said(b"again 20 70 /dev/pts/0\r\n")
    assert second.log() == ["after 23 91 /dev/pts/0", "again 20 70 /dev/pts/0"]


def test_it_is_the_controlling_one_of_its_session(criu: Kubelet, archive: Path) -> None:
    """Ctrl-C is a signal to who is in the foreground; hanging up ends the session."""
    script = "trap 'echo caught' INT; echo ready; while :; do sleep 0.1; done"
    first = criu.pod().container(["sh", "-c", script], stdin=True, tty=True).start()
    until(lambda: first.log() == ["ready"], "it runs")
    write(first, archive)
    second = restored(criu.pod(), archive, stdin=True, tty=True).start()
    with attached(second, stdin=True, tty=True) as client:
        client.send(b"\x03")
        client.until_said(b"caught")
    assert second.shell("echo hello > /dev/console; cat /proc/1/stat").split()[6] == str(0x8800)
    until(lambda: "hello" in second.log(), "it is the console too")
    again = archive.with_name("again.tar")
    write(second, again)
    third = restored(criu.pod(), again, stdin=True, tty=True).start()
    with attached(third, stdin=True, tty=True) as client:
        client.send(b"\x03")
        client.until_said(b"caught")


@pytest.mark.skipif(not held().effective & SYS_RESOURCE, reason="needs CAP_SYS_RESOURCE")
def test_it_belongs_to_the_containers_user(criu: Kubelet, archive: Path) -> None:
    linux = security(
        run_as_user=api.Int64Value(value=1000),
        run_as_group=api.Int64Value(value=1000),
        no_new_privs=True,
        capabilities=api.Capability(drop_capabilities=["ALL"]),
    )
    script = "while :; do echo tick > /dev/pts/0; sleep 0.1; done"
    first = criu.pod().container(["sh", "-c", script], tty=True, linux=linux).start()
    until(lambda: "tick" in first.log(), "it may open its terminal")
    write(first, archive)
    second = restored(criu.pod(), archive, tty=True, linux=linux).start()
    until(lambda: "tick" in second.log(), "it still may")


INNER = """
import os, pty, time
pid, master = pty.fork()
while pid == 0:
    print(os.ttyname(0), flush=True)
    time.sleep(0.1)
while pid:
    os.write(1, os.read(master, 1000).replace(b"\\r", b""))
"""


def test_terminals_that_a_container_made_itself_go_on(criu: Kubelet, archive: Path) -> None:
    """Here by the node's Python, whose libraries are mounted for it."""
    mounts = [
        api.Mount(host_path=path, container_path=path, readonly=True)
        for path in ("/usr", "/lib", "/lib64")
    ]
    words = ["/usr/bin/python3", "-I", "-c", INNER]
    first = criu.pod().container(words, tty=True, mounts=mounts).start()
    until(lambda: "/dev/pts/1" in first.log(), "it has a second one")
    write(first, archive)
    second = restored(criu.pod(), archive, tty=True, mounts=mounts).start()
    until(lambda: second.log().count("/dev/pts/1") > 3, "it goes on")


def test_a_terminal_or_none_is_the_requests_to_say(criu: Kubelet, archive: Path) -> None:
    write(talking(criu.pod()), archive)
    error = refused(restored(criu.pod(), archive).start)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "terminal" in error.message
    piped = archive.with_name("piped.tar")
    write(counting(criu.pod()), piped)
    error = refused(restored(criu.pod(), piped, tty=True).start)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "terminal" in error.message


def test_a_terminal_that_is_none_is_named(criu: Kubelet, archive: Path) -> None:
    write(talking(criu.pod()), archive)
    image = "checkpoint/tty-info.img"
    twice = members(archive)[image]
    twice += twice[8:]
    for damaged in (twice, twice[:20]):
        changed = rewritten(archive, {image: damaged})
        error = refused(restored(criu.pod(), changed, stdin=True, tty=True).start)
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
