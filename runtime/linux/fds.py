"""Messages between our processes: one JSON object and any number of descriptors.

They travel over a unix SEQPACKET socket. A body larger than a packet travels in a memfd whose
descriptor comes last; the packet is then the single byte 0. Descriptors are always received
close-on-exec.
"""

from __future__ import annotations

import _json
import _socket
import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

INLINE_BYTES = 64 * 1024  # well below the kernel's default send buffer of 208 KiB
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_FDS = 64  # the kernel's own limit is 253 (SCM_MAX_FD)
_IN_MEMFD = b"\0"
ANCILLARY_BYTES = _socket.CMSG_SPACE(MAX_FDS * 4)

Message = dict[str, object]
Socket = _socket.socket
"""The socket of C, which `socket.socket` extends. A monitor uses nothing more: the extension's
enumerations alone would make 300 KB of shared memory its own."""

# Made once, and of C: json.dumps and json.loads make them anew at each call.
_chunks = _json.make_encoder(
    markers=None,
    default=json.JSONEncoder().default,
    encoder=_json.encode_basestring_ascii,
    indent=None,
    key_separator=":",
    item_separator=",",
    sort_keys=False,
    skipkeys=False,
    allow_nan=True,
)
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # typeshed leaves it out
CLOEXEC = _socket.MSG_CMSG_CLOEXEC
_TRUNCATED = _socket.MSG_TRUNC | _socket.MSG_CTRUNC


def pair() -> tuple[Socket, Socket]:
    """Two connected SEQPACKET sockets, close-on-exec."""
    kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
    return _socket.socketpair(_socket.AF_UNIX, kind)


def adopt(fd: int) -> Socket:
    """A socket object that owns this descriptor."""
    return _socket.socket(fileno=fd)


def accept(listener: Socket) -> Socket:
    """The next connection."""
    fd, _ = listener._accept()  # type: ignore[attr-defined]
    return _socket.socket(fileno=fd)


def tcp_sockets() -> list[int]:
    """Unconnected TCP sockets, close-on-exec: IPv4, and IPv6 where the kernel has it."""
    kind = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    sockets = [_socket.socket(_socket.AF_INET, kind).detach()]
    with contextlib.suppress(OSError):
        sockets.append(_socket.socket(_socket.AF_INET6, kind).detach())
    return sockets


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


def send(peer: Socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """Sends one message. A full buffer of a non-blocking socket: BlockingIOError, nothing sent."""
    body = "".join(_chunks(message, 0)).encode("ascii")
    if len(body) <= INLINE_BYTES:
        send_packet(peer, body, fds)
        return
    memfd = os.memfd_create("podwright-message", os.MFD_CLOEXEC)
    try:
        with open(memfd, "wb", closefd=False) as file:
            file.write(body)
        send_packet(peer, _IN_MEMFD, (*fds, memfd))
    finally:
        os.close(memfd)


def send_packet(peer: Socket, packet: bytes, fds: Sequence[int]) -> None:
    """Sends bytes as they are, with descriptors."""
    if not fds:
        peer.send(packet)
        return
    rights = struct.pack(f"{len(fds)}i", *fds)
    peer.sendmsg([packet], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])


def descriptors(rights: bytes) -> list[int]:
    """Those in an SCM_RIGHTS message."""
    return memoryview(rights)[: len(rights) // 4 * 4].cast("i").tolist()


def receive(peer: Socket) -> tuple[Message, list[int]] | None:
    """One message and the descriptors that came with it (the caller owns them); None: the end."""
    packet, ancillary, flags, _ = peer.recvmsg(INLINE_BYTES, ANCILLARY_BYTES, CLOEXEC)
    fds: list[int] = []
    for level, kind, rights in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += descriptors(rights)
    try:
        if flags & _TRUNCATED:
            raise ValueError("a message was cut: it is larger than a packet may be")
        if not packet:
            close_all(fds)
            return None
        body = _body_of_memfd(fds.pop()) if packet == _IN_MEMFD else packet
        message = parse(body)
    except BaseException:
        close_all(fds)
        raise
    return message, fds


def parse(body: bytes) -> Message:
    """The message in a packet. Raises ValueError."""
    text = body.decode("utf-8")
    try:
        message, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("a message must be JSON") from None
    if end != len(text) or not isinstance(message, dict):
        raise ValueError(f"a message must be one object, got {text[:80]!r}")
    return message


def log(text: str) -> None:
    """One line to standard error (the journal, or spawner.log); failing to write is no failure."""
    with contextlib.suppress(OSError):
        os.write(2, f"podwright[{os.getpid()}]: {text}\n".encode(errors="replace"))


def _body_of_memfd(memfd: int) -> bytes:
    with open(memfd, "rb") as file:
        size = os.fstat(memfd).st_size
        if size > MAX_BODY_BYTES:
            raise ValueError(f"a message of {size} bytes; the limit is {MAX_BODY_BYTES}")
        file.seek(0)
        return file.read(size)
