"""What the processes of a checkpoint have open: which of it a container may have, and which are the
pipes that its monitor held.

CRIU opens files as root of the node, so what a process of the container could not have opened by
itself must not be in the list: sockets of kinds that take a capability, devices of tunnels,
programs of BPF, and, where the container's processes can be nobody but its own user, any file that
this user has no right to.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from runtime.checkpoint.wire import MalformedImage, Message, read

# enum fd_types of CRIU's fdinfo.proto, and in which field of a file_entry the file is.
_REG, _PIPE, _INETSK, _PACKETSK = 1, 2, 4, 10
_KINDS: Final = {
    _REG: ("file", 3),
    _PIPE: ("pipe", 18),
    3: ("fifo", 17),
    _INETSK: ("socket", 4),
    5: ("unix socket", 16),
    6: ("eventfd", 8),
    7: ("epoll", 9),
    8: ("inotify", 13),
    9: ("signalfd", 10),
    _PACKETSK: ("packet socket", 6),
    11: ("terminal", 19),
    13: ("netlink socket", 7),
    17: ("timerfd", 12),
    18: ("memfd", 20),
    20: ("pidfd", 22),
}
_KIND, _ID = 1, 2  # of a file_entry
_NAME, _FLAGS = 6, 2  # of a reg_file_entry
_PIPE_ID, _PIPE_FLAGS = 2, 3
# Where each kind has its fown_entry; a fifo has none but its file's.
_OWNERS: Final = {_REG: 5, _PIPE: 4, _INETSK: 13, 5: 9, 6: 3, 7: 3, 8: 4, 9: 3} | {
    _PACKETSK: 6, 11: 4, 13: 11, 17: 3, 18: 4, 20: 5
}  # fmt: skip
_OWNER_USERS, _OWNER_PID = (1, 2), 5
_SOCKET_TYPE = 4
_SOCK_RAW = 3
_STDIO = 3
MayOpen = Callable[[str, int], bool]


class Refused(Exception):
    """A checkpoint has something that its container must not have; the text says what."""


def check(
    files: Sequence[Message], *, raw_sockets: bool, may_open: MayOpen | None, user: int = 0
) -> None:
    """Raises Refused. raw_sockets: the container has CAP_NET_RAW; may_open: whether its user may
    open a path of the container with these flags; None: it has root, who may; user: its only one,
    who alone may be who sends signals, if there is `may_open`."""
    for entry in files:
        kind = entry.number(_KIND)
        if kind not in _KINDS:
            raise Refused(f"an open file of kind {kind}, which no container can restore")
        name, field = _KINDS[kind]
        one = entry.message(field)
        raw = kind == _PACKETSK or (kind == _INETSK and one.number(_SOCKET_TYPE) == _SOCK_RAW)
        if raw and not raw_sockets:
            raise Refused(f"a raw {name}, which takes CAP_NET_RAW")
        if may_open is None:
            continue
        _check_owner(name, one.message(_OWNERS[kind]) if kind in _OWNERS else Message.of(), user)
        if kind == _REG:
            path = os.fsdecode(one.data(_NAME))
            if not may_open(path, one.number(_FLAGS)):
                raise Refused(f"the open file {path[:200]!r}, to which its user has no right")


def _check_owner(name: str, owner: Message, user: int) -> None:
    """F_SETOWN: whoever has set it, as that user the kernel sends SIGIO, or another signal."""
    if owner.number(_OWNER_PID, 0):
        users = {owner.number(field) for field in _OWNER_USERS}
        if users != {user}:
            raise Refused(
                f"a {name} that sends signals as user {sorted(users)}, where there is only {user}"
            )


def stdio(descriptors: bytes, files: Sequence[Message]) -> dict[int, str]:
    """0, 1, 2 -> the name by which CRIU knows the pipe there, if its other end was elsewhere.

    descriptors: the first process's fdinfo image.
    """
    ends: dict[int, set[int]] = defaultdict(set)  # pipe -> how it is open
    pipes = {}
    for entry in files:
        if entry.number(_KIND) == _PIPE:
            pipe = entry.message(_KINDS[_PIPE][1])
            pipes[entry.number(_ID)] = pipe.number(_PIPE_ID)
            ends[pipe.number(_PIPE_ID)].add(pipe.number(_PIPE_FLAGS) & os.O_ACCMODE)
    found: dict[int, str] = {}
    for entry in read("fdinfo", descriptors):
        identity, kind, number = entry.number(1), entry.number(3), entry.number(4)
        if kind != _PIPE or number >= _STDIO:
            continue
        if identity not in pipes:
            raise MalformedImage(f"descriptor {number} is a pipe that is not there")
        if len(ends[pipes[identity]]) == 1:
            found[number] = f"pipe:[{pipes[identity]}]"
    return found
