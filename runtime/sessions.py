"""A client's streams to a process in a container: an exec'ed command, or the container itself.

    client ◀─ daemon ─▶ stdin_fd ── pipe ──▶ command          exec: nobody else sees a byte
                     ◀─ stdout_fd ── pipe ── command
                     ◀─▶ the terminal's master               exec with a terminal: one descriptor

                     ◀─▶ two pipes, and Resize              with one that a shim holds

    client ◀─ daemon ─▶ stdin_fd, or the terminal's master   attach: what the monitor holds, shared
                     ◀─ stdout_fd ── pipe ── monitor          a copy of what goes to the log

The descriptors are non-blocking and belong to the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass

from runtime.errors import AttachmentTooSlow, RuntimeFault
from runtime.linux import fds
from runtime.monitor.client import Conversation, MonitorClient
from runtime.monitor.messages import (
    Attach,
    Attached,
    Detached,
    Done,
    ExecStream,
    Executed,
    Sockets,
)

PIPE_BYTES = 1024 * 1024  # of output that a client may be behind before an attachment ends
ENDING_PATIENCE = 10.0  # seconds for what was abandoned to be gone
STDIN, STDOUT, STDERR = 0, 1, 2
LOOPBACKS = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class StreamedExec:
    """A command for a client who listens. streams: which of 0, 1, 2 it wants."""

    sandbox_id: str
    container_id: str
    args: tuple[str, ...]
    terminal: bool = False
    streams: tuple[int, ...] = (STDIN, STDOUT, STDERR)


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """A look at a running container. streams: which of 0, 1, 2 the client wants."""

    sandbox_id: str
    container_id: str
    streams: tuple[int, ...] = (STDIN, STDOUT, STDERR)


class Session:
    """The streams, and how they end. stdin_fd, stdout_fd, stderr_fd: -1 without.

    With a terminal there is no stderr, and stdin_fd may equal stdout_fd, whose end is EIO.
    """

    def __init__(self, client: MonitorClient, talk: Conversation, *, terminal: bool) -> None:
        self.terminal = terminal
        self.stdin_fd = self.stdout_fd = self.stderr_fd = -1
        self.console_fd = -1  # the terminal's master, or the pipe to who has it
        self.remote = False  # somebody else has it
        self._client = client
        self._talk = talk
        self._end: asyncio.Task[int] | None = None

    def resize(self, width: int, height: int) -> None:
        """The size of the client's window, in columns and rows; without a terminal: nothing."""
        if self.remote and self.console_fd >= 0:
            self._talk.resize(min(width, 0xFFFF), min(height, 0xFFFF))
        elif self.console_fd >= 0:
            size = struct.pack("4H", min(height, 0xFFFF), min(width, 0xFFFF), 0, 0)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.console_fd, termios.TIOCSWINSZ, size)

    def end_input(self) -> None:
        """The client has no more input: end of file for a command, and for a container whose input
        is for one client only (stdin_once). A terminal's input has no end."""
        if not self.terminal:
            fds.close_all((self.stdin_fd,))
        self.stdin_fd = -1
        self._talk.end_input()

    async def wait(self) -> int:
        """The end. A command's exit code (128 + N after signal N); 0 when the output of the
        container that one is attached to has ended. May be asked several times.

        Raises InitFailed, AttachmentTooSlow, MonitorLost.
        """
        if self._end is None:
            self._end = asyncio.create_task(_ended(self._talk), name="end of a session")
        return await asyncio.shield(self._end)

    async def close(self) -> None:
        """Releases everything; a command that still runs is killed with its descendants.

        Idempotent, raises nothing.
        """
        try:
            if self._end is None or not self._end.done():
                self._talk.abandon()
                with contextlib.suppress(TimeoutError, RuntimeFault, OSError):
                    await asyncio.wait_for(self.wait(), ENDING_PATIENCE)
        finally:
            self._release()

    def _release(self) -> None:
        if self._end is not None and not self._end.cancel() and not self._end.cancelled():
            self._end.exception()  # seen, by whoever waited, or of no interest any more
        self._client.release(self._talk)
        fds.close_all({self.stdin_fd, self.stdout_fd, self.stderr_fd, self.console_fd})
        self.stdin_fd = self.stdout_fd = self.stderr_fd = self.console_fd = -1


async def _ended(talk: Conversation) -> int:
    if isinstance(talk.request, ExecStream):
        return (await talk.ended(Executed)).exit_code
    if (await talk.ended(Detached)).too_slow:
        raise AttachmentTooSlow(
            f"detached: more than {PIPE_BYTES // 1024} KiB of output were waiting to be read, "
            "and neither the container nor its log waits; the log has all of it"
        )
    return 0


async def open_exec(client: MonitorClient, request: StreamedExec) -> Session:
    """Starts a command; answers when it runs. Raises InitFailed, ContainerNotFound."""
    streams = () if request.terminal else request.streams
    word = ExecStream(request.container_id, request.args, request.terminal, streams)
    with _Pipes(streams) as pipes:
        _, received, talk = await client.open(word, Done, pipes.theirs, pipes.keep)
        session = Session(client, talk, terminal=request.terminal)
        session.stdin_fd, session.stdout_fd, session.stderr_fd = pipes.give()
    if request.terminal:
        master, *output = received
        session.remote = bool(output)
        session.console_fd, session.stdout_fd = master, output[0] if output else master
        for fd in received:
            os.set_blocking(fd, False)
        session.stdin_fd = master if STDIN in request.streams else -1
    return session


async def attach(client: MonitorClient, request: AttachRequest) -> Session:
    """Attaches to a running container. Raises ContainerNotFound."""
    outputs = tuple(number for number in request.streams if number != STDIN)
    wants_input = STDIN in request.streams
    word = Attach(request.container_id, stdin=wants_input, streams=outputs)
    with _Pipes(outputs, PIPE_BYTES) as pipes:
        attached, received, talk = await client.open(word, Attached, pipes.theirs, pipes.keep)
        session = Session(client, talk, terminal=attached.terminal)
        _, session.stdout_fd, session.stderr_fd = pipes.give()
    if received:
        (given,) = received
        os.set_blocking(given, False)
        if attached.terminal:
            session.console_fd, session.remote = given, attached.remote
        session.stdin_fd = given if wants_input else -1
    return session


class _Pipes:
    """Pipes between us and a process; what is not given away is closed at the end."""

    def __init__(self, streams: tuple[int, ...], size: int = 0) -> None:
        """size: bytes that each holds; 0: as the kernel makes them."""
        self._ours = [-1, -1, -1]
        self.theirs: list[int] = []
        for number in streams:
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            ours, theirs = (write_fd, read_fd) if number == STDIN else (read_fd, write_fd)
            self._ours[number] = ours
            self.theirs.append(theirs)
            os.set_blocking(ours, False)
            if size:
                with contextlib.suppress(OSError):  # beyond what the user may have in pipes
                    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, size)

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        fds.close_all((*self._ours, *self.theirs))

    def keep(self) -> Callable[[], None]:
        """Our ends stay open until what this answers is called."""
        ours = self.give()
        return lambda: fds.close_all(ours)

    def give(self) -> tuple[int, int, int]:
        """Our ends, as stdin, stdout, stderr; the receiver's from now on."""
        stdin, stdout, stderr = self._ours
        self._ours = [-1, -1, -1]
        return stdin, stdout, stderr


async def dial(client: MonitorClient, port: int) -> socket.socket:
    """A connection to a port of the pod's loopback, IPv4 or else IPv6; non-blocking, the caller's.

    The sockets are made in the pod's network and connected here. Raises OSError, IPv4's if both
    families refuse.
    """
    loop = asyncio.get_running_loop()
    _, received = await client.descriptors(Sockets(), Done)
    sockets = [socket.socket(fileno=fd) for fd in received]
    refusal: OSError | None = None
    try:
        for peer, address in zip(sockets, LOOPBACKS, strict=False):
            try:
                await loop.sock_connect(peer, (address, port))
            except OSError as error:
                refusal = refusal or error
            else:
                sockets.remove(peer)
                return peer
    finally:
        for peer in sockets:
            peer.close()
    raise refusal or OSError(errno.EAFNOSUPPORT, "the pod's network has no TCP")


async def netlink(client: MonitorClient) -> int:
    """A socket for rtnetlink(7) of the pod's network, the caller's. Raises RuntimeFault."""
    _, (fd, *others) = await client.descriptors(Sockets(netlink=True), Done)
    with socket.socket(fileno=os.dup(fd)) as found:
        if found.family == socket.AF_NETLINK:
            return fd
    fds.close_all((fd, *others))
    raise RuntimeFault("the pod was made by an older podwright, which can't do that: make it anew")
