"""Settings of a checkpoint's sockets: none that the container's processes could not have made."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.checkpoint import sockets
from runtime.checkpoint.files import Refused
from runtime.checkpoint.wire import Message, Value
from runtime.tests.test_checkpoint_confine import NOBODY, ROOT, Checkpoint, core, creds, thread

NET_BIND_SERVICE, NET_ADMIN, AUDIT_READ = 1 << 10, 1 << 12, 1 << 37
POWERLESS = replace(ROOT, permitted=0, bounding=0)
FREE = replace(POWERLESS, bounding=NET_BIND_SERVICE | NET_ADMIN | AUDIT_READ)
USER = NOBODY.identity.uid


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    made = Checkpoint(tmp_path)
    made.put("fdinfo-2", "fdinfo")
    return made


def owner(pid: int = 0, uid: int = USER) -> Message:
    return Message.of((1, uid), (2, uid), (3, 9), (4, 1), (5, pid))


def options(*fields: tuple[int, Value], size: int = 4096) -> Message:
    return Message.of((1, size), (2, size), *fields)


def inet(port: int = 0, opts: Message | None = None, **fields: int) -> Message:
    one = Message.of((1, 9), (3, 2), (4, fields.get("type", 2)), (5, fields.get("protocol", 17)))
    one.add(7, port)
    one.set(13, owner(fields.get("owner", 0), uid=0))
    one.set(14, opts or options())
    return Message.of((1, 4), (2, 9), (4, one.encode()))


def unix(name: bytes, directory: str = "") -> Message:
    one = Message.of((1, 9), (11, name))
    if directory:
        one.add(14, directory.encode())
    one.set(9, owner())
    one.set(10, options())
    return Message.of((1, 5), (2, 9), (16, one.encode()))


def netlink(protocol: int, groups: int = 0, to: int = 0) -> Message:
    one = Message.of((3, protocol), (4, 1 if to else 0), (8, groups), (10, to))
    one.set(11, owner())
    one.set(12, options())
    return Message.of((1, 13), (2, 9), (7, one.encode()))


PORT = sockets.network().port - 1
ATTACKS = {
    "SO_MARK": inet(opts=options((10, 7))),
    "priority 7": inet(opts=options((8, 7))),
    "priority 4294967295": inet(opts=options((8, 2**32 - 1))),
    "CAP_AUDIT_READ": netlink(9, groups=1),
    "protocol 12 in groups": netlink(12, to=1),
}
if PORT > 0:
    ATTACKS[f"port {PORT}, which takes CAP_NET_BIND_SERVICE"] = inet(PORT)


@pytest.mark.parametrize("said", ATTACKS)
def test_what_takes_a_capability_is_refused_to_who_can_not_have_it(
    checkpoint: Checkpoint, said: str
) -> None:
    checkpoint.files(ATTACKS[said])
    with pytest.raises(Refused, match=said):
        checkpoint.confine(POWERLESS)
    checkpoint.confine(FREE)


@pytest.mark.parametrize(
    "entry",
    [
        inet(1, protocol=1),  # a socket of ping, whose number is no port
        inet(opts=options((8, 6), (10, 0))),
        netlink(0, groups=1),
        netlink(15, groups=1),
        netlink(16),
    ],
)
def test_what_everybody_may_is_left_alone(checkpoint: Checkpoint, entry: Message) -> None:
    checkpoint.files(entry)
    checkpoint.confine(POWERLESS)


def buffers(checkpoint: Checkpoint) -> tuple[int, int]:
    one = checkpoint.get("files", "files").message(4).message(14)
    return one.number(1), one.number(2)


def test_buffers_are_no_larger_than_the_kernel_gives_everybody(checkpoint: Checkpoint) -> None:
    """SO_RCVBUFFORCE: what waits in a socket of UDP is in no limit of a cgroup of v1."""
    limits = sockets.network()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as usual:
        assert usual.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= limits.receive < 1 << 30
    checkpoint.files(inet(opts=options(size=2**31)))
    checkpoint.confine(POWERLESS)
    assert buffers(checkpoint) == (limits.send, limits.receive)
    checkpoint.files(inet(opts=options(size=2**31), type=1, protocol=6))
    checkpoint.confine(POWERLESS)
    assert buffers(checkpoint) == (limits.tcp_send, limits.tcp_receive)
    checkpoint.files(inet(opts=options(size=2**31)))
    checkpoint.confine(FREE)
    assert buffers(checkpoint) == (2**31, 2**31)


@pytest.fixture
def users(checkpoint: Checkpoint) -> Checkpoint:
    """All that there is are processes of one user."""
    checkpoint.put("core-1", "core", core(thread(creds(USER))))
    return checkpoint


def test_a_user_makes_sockets_where_it_may_make_files(users: Checkpoint) -> None:
    for entry in (unix(b"\0/root/secret/x"), unix(b""), unix(b"/run/x\0"), unix(b"x", "/run")):
        users.files(entry)
        users.confine(NOBODY)
    for entry in (unix(b"/root/secret/x\0"), unix(b"x\0", "/root/secret")):
        users.files(entry)
        with pytest.raises(Refused, match="unix socket '/root/secret/x'"):
            users.confine(NOBODY)
        users.confine(ROOT)


def kind_of(number: int, field: int, where: int) -> Message:
    body = Message.of((1, 9), (2, os.O_RDONLY), (where, owner(1, uid=0).encode()))
    return Message.of((1, number), (2, 9), (field, body.encode()))


@pytest.mark.parametrize(
    "entry",
    [kind_of(2, 18, 4), kind_of(6, 8, 3), kind_of(11, 19, 4), kind_of(17, 12, 3), inet(owner=1)],
)
def test_nothing_sends_signals_as_another_user(users: Checkpoint, entry: Message) -> None:
    """F_SETOWN and F_SETSIG as root: who shares the node's pids could end any process there."""
    users.files(entry)
    with pytest.raises(Refused, match=r"sends signals as user \[0\]"):
        users.confine(NOBODY)


def test_who_has_asked_for_a_signal_gets_it(users: Checkpoint) -> None:
    body = Message.of((1, 9), (2, 0), (3, owner(1).encode()))
    users.files(Message.of((1, 6), (2, 9), (8, body.encode())))
    users.confine(NOBODY)


def test_limits_are_those_of_our_network() -> None:
    limits = sockets.network()
    assert limits.tcp_send >= limits.send > 4096
    assert limits.tcp_receive >= limits.receive > 4096
