"""Sockets of a checkpoint: what of their settings a container may have.

CRIU sets them as root, whatever the process could have done by itself. Numbers of fields: CRIU's
sk-opts.proto, sk-inet.proto, sk-unix.proto, sk-netlink.proto, packet-sock.proto; which setting
takes which capability: socket(7), netlink(7), ip(7).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from runtime.checkpoint.wire import Message

if TYPE_CHECKING:
    from runtime.checkpoint.files import MayOpen

_INET, _UNIX, _NETLINK = 4, 16, 7  # fields of a file_entry
_OPTIONS: Final = {_INET: 14, _UNIX: 10, 6: 7, _NETLINK: 12}  # where each has its options
_SEND, _RECEIVE, _PRIORITY, _MARK = 1, 2, 8, 10  # of a sk_opts_entry
_TYPE, _PROTOCOL, _PORT = 4, 5, 7  # of an inet_sk_entry
_NAME, _NAME_DIRECTORY = 11, 14  # of a unix_sk_entry
_NETLINK_PROTOCOL, _GROUPS, _STATE, _TO_GROUP = 3, 8, 4, 10  # of a netlink_sk_entry
_CONNECTED: Final = 1
_OPEN_GROUPS: Final = (0, 15)  # NETLINK_ROUTE, NETLINK_KOBJECT_UEVENT: everybody may listen
_AUDIT: Final = 9
_NET_BIND_SERVICE, _NET_ADMIN, _NET_RAW, _AUDIT_READ = 1 << 10, 1 << 12, 1 << 13, 1 << 37
_FREE_PRIORITY: Final = 6  # SO_PRIORITY up to it is everybody's
_PORTED: Final = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, 136)  # IPPROTO_UDPLITE
_MUCH: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Network:
    """What everybody may in the one in which we are: bytes of a socket's buffers, as getsockopt
    says them, and of one of TCP, which the kernel lets grow; the first port."""

    send: int
    receive: int
    tcp_send: int
    tcp_receive: int
    port: int


def network() -> Network:
    """Of ours. The kernel itself says the first two: it cuts down what is asked for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MUCH)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _MUCH)
        send = probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        receive = probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return Network(
        send,
        receive,
        max(send, _sysctl("tcp_wmem")),
        max(receive, _sysctl("tcp_rmem")),
        _sysctl("ip_unprivileged_port_start"),
    )


def _sysctl(name: str) -> int:
    with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
        return int(file.read().split()[-1])


def confine(opened: Sequence[Message], most: int, limits: Network, may_open: MayOpen | None) -> str:
    """Cuts buffers down to the limits, in place; the answer says what is to be refused, or "".

    most: the capabilities that a process of the container can have; may_open: see `files.check`.
    """
    for entry in opened:
        for kind, field in _OPTIONS.items():
            if not entry.has(kind):
                continue
            one = entry.message(kind)
            problem = _options(one, field, most, limits) or _special(kind, one, most, limits)
            if not problem and kind == _UNIX and may_open is not None:
                problem = _bound(one, may_open)
            if problem:
                return problem
            entry.set(kind, one)
    return ""


def _options(one: Message, field: int, most: int, limits: Network) -> str:
    options = one.message(field)
    if not most & (_NET_ADMIN | _NET_RAW):
        if options.number(_MARK, 0):
            return "a socket with a mark (SO_MARK), which takes CAP_NET_ADMIN or CAP_NET_RAW"
        priority = options.number(_PRIORITY, 0)
        if priority > _FREE_PRIORITY:
            return f"a socket of priority {priority}, which takes CAP_NET_ADMIN or CAP_NET_RAW"
    if not most & _NET_ADMIN:
        tcp = field == _OPTIONS[_INET] and one.number(_TYPE) == socket.SOCK_STREAM
        send = limits.tcp_send if tcp else limits.send
        receive = limits.tcp_receive if tcp else limits.receive
        for number, limit in ((_SEND, send), (_RECEIVE, receive)):
            if options.number(number, 0) > limit:
                options.set(number, limit)
                one.set(field, options)
    return ""


def _special(kind: int, one: Message, most: int, limits: Network) -> str:
    if kind == _INET and not most & _NET_BIND_SERVICE:
        port = one.number(_PORT, 0)
        if one.number(_PROTOCOL, 0) in _PORTED and 0 < port < limits.port:
            return f"a socket with port {port}, which takes CAP_NET_BIND_SERVICE"
    if kind == _NETLINK:
        protocol = one.number(_NETLINK_PROTOCOL)
        connected = one.number(_STATE) == _CONNECTED
        groups = any(one.numbers(_GROUPS)) or (connected and one.number(_TO_GROUP))
        needed, name = _NET_ADMIN, "CAP_NET_ADMIN"
        if protocol == _AUDIT:
            needed, name = _NET_ADMIN | _AUDIT_READ, "CAP_NET_ADMIN and CAP_AUDIT_READ"
        if groups and protocol not in _OPEN_GROUPS and needed & ~most:
            return f"a netlink socket of protocol {protocol} in groups, which takes {name}"
    return ""


def _bound(one: Message, may_open: MayOpen) -> str:
    """CRIU removes the socket that is at the place of a socket, and makes it there anew."""
    name = one.data(_NAME).rstrip(b"\0")
    if not name or name.startswith(b"\0"):
        return ""  # it has none, or an abstract one
    path = os.fsdecode(os.path.join(b"/", one.data(_NAME_DIRECTORY), name))
    if may_open(os.path.dirname(path), os.O_WRONLY):
        return ""
    return f"the unix socket {path[:200]!r}, where its user has no right to make one"
