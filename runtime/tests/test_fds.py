"""Messages and descriptors arrive whole, and nothing leaks when they don't."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import fds


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_message_larger_than_a_packet_arrives_whole(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    before = open_fds()
    message = {"text": "é" * 500_000}
    fds.send(ours, message)
    assert fds.receive(theirs) == (message, [])
    assert open_fds() == before


def test_descriptors_arrive_close_on_exec(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    read, write = os.pipe()
    fds.send(ours, {}, [write])
    os.close(write)
    received = fds.receive(theirs)
    assert received is not None
    _, [descriptor] = received
    assert not os.get_inheritable(descriptor)
    os.write(descriptor, b"through")
    assert os.read(read, 10) == b"through"
    fds.close_all([read, descriptor, -1])


def test_the_end_of_the_connection_is_none(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert fds.receive(pair[1]) is None


@pytest.mark.parametrize("packet", [b"[]", b"7", b"{", b"\xff"])
def test_a_bad_message_leaks_no_descriptor(
    pair: tuple[socket.socket, socket.socket], packet: bytes
) -> None:
    ours, theirs = pair
    before = open_fds()
    socket.send_fds(ours, [packet], [0, 1])
    with pytest.raises(ValueError, match=r"."):
        fds.receive(theirs)
    assert open_fds() == before


def test_a_socket_may_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    path = os.fspath(deep / "monitor.sock")
    fds.bind(path).close()  # a stale one is replaced
    with fds.bind(path) as listener, fds.connect(path) as ours:
        theirs, _ = listener.accept()
        with theirs:
            fds.send(ours, {"a": 1})
            assert fds.receive(theirs) == ({"a": 1}, [])
    assert os.stat(path).st_mode & 0o777 == 0o600
