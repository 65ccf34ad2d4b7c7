"""Messages between our processes: one JSON object and any number of descriptors.

They travel over a unix SEQPACKET socket. A body larger than a packet travels in a memfd whose
descriptor comes last; the packet is then the single byte 0. Descriptors are always received
close-on-exec.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

INLINE_BYTES = 64 * 1024  # well below the kernel's default send buffer of 208 KiB
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_FDS = 64  # the kernel's own limit is 253 (SCM_MAX_FD)
_IN_MEMFD = b"\0"
_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_FDS * 4)

Message = dict[str, object]


def close_all(fds: Iterable[int]) -> None:
    """Closes every descriptor that is not -1."""
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def bind(path: str, kind: int = socket.SOCK_SEQPACKET) -> socket.socket:
    """A listening unix socket at `path`, for root alone; one that was left there is replaced."""
    with _short_path(path) as short:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(short)
        listener = socket.socket(socket.AF_UNIX, kind)
        listener.bind(short)
        os.chmod(short, 0o600)
        listener.listen(64)
        return listener


def connect(path: str, kind: int = socket.SOCK_SEQPACKET) -> socket.socket:
    """Connects to the unix socket at `path`. OSError if nobody listens."""
    connection = socket.socket(socket.AF_UNIX, kind)
    try:
        with _short_path(path) as short:
            connection.connect(short)
    except OSError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _short_path(path: str) -> Iterator[str]:
    """The same file by a name that fits into sockaddr_un's 108 bytes, however deep it lies."""
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def send(peer: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """Sends one message. A full buffer of a non-blocking socket: BlockingIOError, nothing sent."""
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(body) <= INLINE_BYTES:
        _send(peer, body, fds)
        return
    memfd = os.memfd_create("podwright-message", os.MFD_CLOEXEC)
    try:
        with open(memfd, "wb", closefd=False) as file:
            file.write(body)
        _send(peer, _IN_MEMFD, (*fds, memfd))
    finally:
        os.close(memfd)


def _send(peer: socket.socket, packet: bytes, fds: Sequence[int]) -> None:
    if not fds:
        peer.send(packet)
        return
    rights = struct.pack(f"{len(fds)}i", *fds)
    peer.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def receive(peer: socket.socket) -> tuple[Message, list[int]] | None:
    """One message and the descriptors that came with it (the caller owns them); None: the end."""
    packet, ancillary, flags, _ = peer.recvmsg(
        INLINE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
    )
    fds: list[int] = []
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            count = len(rights) // 4
            fds.extend(struct.unpack(f"{count}i", rights[: count * 4]))
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("a message was cut: it is larger than a packet may be")
        if not packet:
            close_all(fds)
            return None
        body = _body_of_memfd(fds.pop()) if packet == _IN_MEMFD else packet
        message = json.loads(body)
        if not isinstance(message, dict):
            raise ValueError(f"a message must be an object, got {type(message).__name__}")
    except BaseException:
        close_all(fds)
        raise
    return cast(Message, message), fds


def _body_of_memfd(memfd: int) -> bytes:
    with open(memfd, "rb") as file:
        size = os.fstat(memfd).st_size
        if size > MAX_BODY_BYTES:
            raise ValueError(f"a message of {size} bytes; the limit is {MAX_BODY_BYTES}")
        file.seek(0)
        return file.read(size)
