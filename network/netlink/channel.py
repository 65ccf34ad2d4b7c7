"""A netlink socket: batches out, acknowledgements and dumps in. For one thread at a time.

The kernel does the work of a batch inside sendmsg(), so that every answer is waiting when it
returns: nothing here waits for anybody but the kernel (and its RTNL lock). That is still up to
some tens of milliseconds, and so never happens on an event loop.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import TracebackType

from network.netlink.wire import (
    HEADER,
    Control,
    MessageFlag,
    Reply,
    Request,
    attributes,
    decode,
    encode,
    string,
)

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_DROP_MEMBERSHIP = 2
_CAP_ACK = 10
_EXT_ACK = 11
_GET_STRICT_CHECK = 12
_SO_SNDBUFFORCE = 32
_SIOCGSKNS = 0x894C
_SEND_BUFFER_BYTES = 4 * 1024 * 1024  # a batch must fit: a rebuilt table of thousands of ports
_RECEIVE_BYTES = 64 * 1024  # the kernel fills at most 32 KiB of a dump at a time
_ANSWER_SECONDS = 30  # an answer that got lost must not hold the network for ever
_DUMP_ATTEMPTS = 10
_EXPLANATION = 1  # NLMSGERR_ATTR_MSG


class Channel:
    """A socket of one netlink family, in the network namespace in which it was opened."""

    def __init__(self, peer: socket.socket) -> None:
        """Takes over `peer`, an AF_NETLINK socket; close() closes it."""
        self._peer = peer
        self._sequence = 1
        self._heard: list[Reply] = []
        peer.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        peer.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        with suppress(OSError):  # older than 4.20: dumps say more than was asked for, no harm
            peer.setsockopt(_SOL_NETLINK, _GET_STRICT_CHECK, 1)
        with suppress(PermissionError):  # a namespace that is not ours: the usual 208 KiB remain
            peer.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)
        timeout = struct.pack("ll", _ANSWER_SECONDS, 0)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)

    @classmethod
    def open(cls, family: int) -> Channel:
        """A channel in this thread's network namespace."""
        return cls(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family))

    @classmethod
    def adopt(cls, fd: int) -> Channel:
        """A channel over a socket that somebody else opened, and goes on to own."""
        peer = socket.socket(fileno=os.dup(fd))
        try:
            return cls(peer)
        except BaseException:
            peer.close()
            raise

    def namespace(self) -> int:
        """The inode of the network namespace in which the socket was opened."""
        fd = self.namespace_fd()
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def namespace_fd(self) -> int:
        """The network namespace in which the socket was opened; the caller's to close."""
        return fcntl.ioctl(self._peer, _SIOCGSKNS)

    def close(self) -> None:
        self._peer.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def transact(self, requests: Sequence[Request]) -> None:
        """Sends a batch and waits until it is done.

        The kernel goes on after a message that failed. Raises the first failure, an OSError with
        the message's `what` and the kernel's explanation in its text.
        """
        self._perform(requests, len(requests) - 1)

    def commit(self, requests: Sequence[Request]) -> None:
        """Sends an nfnetlink batch (begin … end), all or nothing. Raises the first failure."""
        self._perform(requests, len(requests) - 2)

    def _perform(self, requests: Sequence[Request], last: int) -> None:
        """Failures are always reported; of success, only that of number `last` is.

        A batch that the kernel refuses as a whole is answered with the number of its beginning.
        """
        asked = list(requests)
        asked[last] = replace(asked[last], flags=asked[last].flags | MessageFlag.ACK)
        first = self._send(asked)
        failure: OSError | None = None
        for reply in self._replies(first):
            if reply.kind != Control.ERROR:
                continue
            number = reply.sequence - first
            error = _error_of(reply, requests[number].what)
            failure = failure or error
            refused = error is not None and number == 0 and last == len(requests) - 2
            if number == last or refused:
                break
        if failure:
            raise failure

    @contextmanager
    def listen(self, group: int) -> Iterator[None]:
        """Hears what the kernel tells the members of a multicast group (RTNLGRP_*), see `until`."""
        self._peer.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        try:
            yield
        finally:
            self._peer.setsockopt(_SOL_NETLINK, _DROP_MEMBERSHIP, group)
            self._heard.clear()

    def until(self, wanted: Callable[[Reply], bool]) -> None:
        """Returns when the kernel has said what is wanted, since `listen` began or from now on."""
        while not any(map(wanted, self._heard)):
            self._heard[:] = self._receive()

    def ask(self, request: Request) -> Reply:
        """Sends one message and answers its one reply. Raises OSError with its `what`."""
        first = self._send([request])
        for reply in self._replies(first):
            if reply.kind != Control.ERROR:
                return reply
            error = _error_of(reply, request.what)
            if error is not None:
                raise error
        raise AssertionError("unreachable: _replies goes on until one is taken")

    def dump(self, request: Request) -> list[Reply]:
        """Everything that matches, as one consistent view. Raises OSError with its `what`."""
        for _ in range(_DUMP_ATTEMPTS):
            replies, interrupted = self._dump_once(request)
            if not interrupted:
                break
        return replies  # changes that don't cease: the view is then as good as any other

    def _dump_once(self, request: Request) -> tuple[list[Reply], bool]:
        first = self._send([replace(request, flags=request.flags | MessageFlag.DUMP)])
        replies = []
        interrupted = False
        for reply in self._replies(first):
            interrupted |= bool(reply.flags & MessageFlag.DUMP_INTERRUPTED)
            if reply.kind == Control.DONE:
                break
            if reply.kind == Control.ERROR:
                error = _error_of(reply, request.what)
                if error is not None:
                    raise error
                break
            replies.append(reply)
        return replies, interrupted

    def _send(self, requests: Sequence[Request]) -> int:
        first = self._sequence
        self._sequence = (self._sequence + len(requests)) % 0x7FFF0000
        self._peer.sendto(encode(requests, first), (0, 0))
        return first

    def _replies(self, first: int) -> Iterator[Reply]:
        """Messages that answer requests numbered `first` or later. Others are only heard."""
        while True:
            for reply in self._receive():
                if reply.sequence >= first:
                    yield reply
                elif reply.sequence == 0:
                    self._heard.append(reply)

    def _receive(self) -> list[Reply]:
        try:
            return list(decode(self._peer.recv(_RECEIVE_BYTES)))
        except BlockingIOError:
            raise TimeoutError(
                errno.ETIMEDOUT, f"the kernel has said nothing for {_ANSWER_SECONDS} s"
            ) from None


def _error_of(reply: Reply, what: str) -> OSError | None:
    """What an acknowledgement says: None for success, else an OSError that carries its errno."""
    number = -int(struct.unpack_from("=i", reply.body)[0])
    if number == 0:
        return None
    reason = os.strerror(number)
    if reply.flags & MessageFlag.ACK_TLVS:
        explanation = attributes(reply.body[_explanations_start(reply) :]).get(_EXPLANATION)
        if explanation:
            reason = f"{reason} ({string(explanation)})"
    return OSError(number, f"{what}: {reason}" if what else reason)


def _explanations_start(reply: Reply) -> int:
    if reply.flags & MessageFlag.CAPPED:
        return 4 + HEADER.size
    (length,) = struct.unpack_from("=I", reply.body, 4)
    return 4 + ((int(length) + 3) & ~3)
