"""Clients reach the ports of pods, over SPDY and WebSocket, through the daemon."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.forward_client import PROTOCOL, Forwarded, meanwhile
from e2e.forward_websocket import TunnelClient, channels
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import Node
from e2e.spdy_client import NotUpgraded, SpdyClient
from e2e.test_network import server

ECHO = 7000
"""Says what it hears, and ends when its client has."""

ANSWERS = 7001
"""Says the digest of what it has heard, once its client has ended."""

SENDS = 7003
"""Sends 64 MiB of zeros."""

ONLY_IPV6 = 7002
"""HTTP, at ::1 alone."""

SERVE = f"""
cd /tmp
echo 'page at ::1' > index.html
printf '#!/bin/sh\\nexec head -c 67108864 /dev/zero\\n' > zeros
chmod +x zeros
nc -ll -p {ECHO} -e cat &
nc -ll -p {ANSWERS} -e sha256sum &
nc -ll -p {SENDS} -e /tmp/zeros &
exec httpd -f -p '[::1]:{ONLY_IPV6}' -h /tmp
"""
BIG = 64 << 20

T = TypeVar("T")


def url(pod: Pod, *ports: int) -> str:
    request = api.PortForwardRequest(pod_sandbox_id=pod.id, port=ports)
    return pod.kubelet.client.call("PortForward", request, api.PortForwardResponse).url


def play(pod: Pod, part: Callable[[SpdyClient], T], *, tunnel: bool = False) -> T:
    """A client's part on the pod's node."""
    target = url(pod)

    def run() -> T:
        with TunnelClient(target) if tunnel else SpdyClient(target, PROTOCOL) as client:
            return part(client)

    return pod.kubelet.node.inside(run)


@pytest.fixture
def serving(pod: Pod) -> Container:
    """A pod with servers on several ports of its loopback."""
    container = pod.container(["sh", "-c", SERVE]).start()
    ports = (ECHO, ANSWERS, ONLY_IPV6, SENDS)
    all_listen = " && ".join(
        f"grep -q ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6" for port in ports
    )
    until(lambda: container.exec("sh", "-c", all_listen).exit_code == 0, "all listen")
    return container


def sockets_of_daemon(node: Node) -> int:
    """Open descriptors of the daemon that are sockets."""
    assert node.daemon is not None
    folder = f"/proc/{node.daemon.process.pid}/fd"
    found = 0
    for name in os.listdir(folder):
        try:
            found += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return found


@pytest.mark.parametrize("tunnel", [False, True], ids=["SPDY", "tunnel"])
def test_two_connections_at_once_reach_the_loopback_of_a_pod(
    pod: Pod, serving: Container, tunnel: bool
) -> None:
    def part(client: SpdyClient) -> None:
        first, second = Forwarded(client, ECHO), Forwarded(client, ECHO)
        first.send(b"one")
        second.send(b"two")
        assert second.until_received(3) == b"two"
        assert first.until_received(3) == b"one"
        first.end()
        assert first.answer() == b"one"
        second.send(b" more")
        second.end()
        assert second.answer() == b"two more"

    play(pod, part, tunnel=tunnel)


@pytest.mark.parametrize("tunnel", [False, True], ids=["SPDY", "tunnel"])
def test_a_pod_answers_when_its_client_has_said_all(
    pod: Pod, serving: Container, tunnel: bool
) -> None:
    def part(client: SpdyClient) -> bytes:
        connection = Forwarded(client, ANSWERS)
        connection.send(b"all")
        connection.end()
        answer = connection.answer()
        assert connection.refusal == ""
        return answer

    assert play(pod, part, tunnel=tunnel).split()[0].decode() == hashlib.sha256(b"all").hexdigest()


def test_a_server_that_only_listens_on_ipv6_is_reached(pod: Pod, serving: Container) -> None:
    def part(client: SpdyClient) -> bytes:
        connection = Forwarded(client, ONLY_IPV6)
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        return connection.answer()

    assert play(pod, part).endswith(b"\r\n\r\npage at ::1\n")


def test_a_refused_port_is_told_and_others_live_on(pod: Pod, serving: Container) -> None:
    def part(client: SpdyClient) -> None:
        living = Forwarded(client, ECHO)
        text = "can't connect to port 9 of the pod: Connection refused"
        assert Forwarded(client, 9).refusal == text
        living.send(b"alive")
        assert living.until_received(5) == b"alive"

    play(pod, part)


def test_64_mib_arrive_unaltered_each_way(pod: Pod, serving: Container) -> None:
    sent = os.urandom(1 << 20) * 64

    def part(client: SpdyClient) -> None:
        there = Forwarded(client, ANSWERS)
        there.send(sent)
        there.end()
        assert there.answer().split()[0].decode() == hashlib.sha256(sent).hexdigest()
        assert Forwarded(client, SENDS).answer() == bytes(BIG)
        both = Forwarded(client, ECHO)

        def send() -> None:
            both.send(sent)
            both.end()

        sending = meanwhile(send)
        assert hashlib.sha256(both.answer()).digest() == hashlib.sha256(sent).digest()
        sending.join()

    play(pod, part)


CLIENT = """
import signal, sys
from e2e.forward_client import PROTOCOL, Forwarded
from e2e.spdy_client import SpdyClient
client = SpdyClient(sys.argv[1], PROTOCOL)
for _ in range(5):
    Forwarded(client, int(sys.argv[2])).send(b"x")
signal.pause()
"""


def test_a_client_that_is_killed_leaves_neither_descriptor_nor_connection(
    node: Node, pod: Pod, serving: Container
) -> None:
    before = sockets_of_daemon(node)
    ours = f"cat /proc/net/tcp /proc/net/tcp6 | grep -c ':{ECHO:04X} 01 '"
    words = node.command(sys.executable, "-c", CLIENT, url(pod), str(ECHO))
    with subprocess.Popen(words) as client:
        try:
            until(lambda: serving.exec("sh", "-c", ours).stdout == b"5\n", "five connections")
            assert sockets_of_daemon(node) > before
        finally:
            client.kill()
    until(lambda: serving.exec("sh", "-c", ours).stdout == b"0\n", "none")
    until(lambda: sockets_of_daemon(node) <= before, "the daemon has closed its sockets")


def test_a_pod_that_stops_ends_its_sessions_and_leaves_nothing(
    node: Node, pod: Pod, serving: Container
) -> None:
    before = node.inventory()

    def part(client: SpdyClient) -> None:
        connection = Forwarded(client, ECHO)
        connection.send(b"x")
        connection.until_received(1)
        stopping = meanwhile(pod.stop)
        while client.read():
            pass
        stopping.join()

    play(pod, part)
    until(lambda: not node.inventory()["namespaces"] - before["namespaces"], "its network ends")


def test_kubernetes_client_for_python_forwards_http(node: Node, pod: Pod) -> None:
    server(pod)
    target = url(pod, 8080)

    def part() -> str:
        with channels(target, 8080) as session:
            connection = http.client.HTTPConnection("pod")
            connection.sock = session.socket(8080)
            connection.request("GET", "/", headers={"Connection": "close"})
            return connection.getresponse().read().decode()

    assert node.inside(part) == "page of the pod\n"


def test_kubernetes_client_for_python_is_told_of_a_refused_port(node: Node, pod: Pod) -> None:
    target = url(pod, 9)

    def part() -> str:
        with channels(target, 9) as session:
            assert session.socket(9).recv(1) == b""
            return str(session.error(9))

    assert node.inside(part) == "can't connect to port 9 of the pod: Connection refused"


def test_a_pod_in_the_nodes_network_is_reached_at_the_nodes_loopback(
    node: Node, kubelet: Kubelet
) -> None:
    config = kubelet.config()
    config.linux.security_context.namespace_options.network = api.NODE
    pod = kubelet.pod(config)

    def part() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(20)
            with SpdyClient(target, PROTOCOL) as client:
                connection = Forwarded(client, listening.getsockname()[1])
                served, _ = listening.accept()
                with served:
                    served.sendall(b"node")
                assert connection.answer() == b"node"

    target = url(pod)
    node.inside(part)


def test_what_can_not_be_forwarded_is_refused_with_the_reason(node: Node, pod: Pod) -> None:
    def code(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
        error = refused(call)
        return error.code, error.message

    assert code(lambda: url(pod, 0)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "port: 0: must be from 1 to 65535",
    )
    assert code(lambda: url(Pod(pod.kubelet, "", pod.config)))[0] == (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    assert code(lambda: url(Pod(pod.kubelet, "f" * 64, pod.config)))[0] == grpc.StatusCode.NOT_FOUND
    target = url(pod, 80)

    def twice() -> int:
        SpdyClient(target, PROTOCOL).close()
        with pytest.raises(NotUpgraded) as caught:
            SpdyClient(target, PROTOCOL)
        return caught.value.status

    assert node.inside(twice) == 404
    pod.stop()
    assert code(lambda: url(pod))[0] == grpc.StatusCode.FAILED_PRECONDITION
