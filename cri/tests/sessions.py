"""Sessions for tests of streaming without a container: a process of this node, with real pipes or a
real terminal; and a server to reach them by."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from cri.endpoint import Endpoint
from cri.streaming.command import RemoteCommand
from cri.streaming.remotecommand import Wanted
from cri.streaming.server import StreamServer, StreamSettings
from cri.streaming.tls import TlsFiles


class ProcessSession:
    """A command as streaming sees one. closed: `close` was called and has done its work."""

    def __init__(self, *args: str, terminal: bool = False, stdin: bool = True) -> None:
        self.terminal = terminal
        self.closed = False
        self.sizes: list[tuple[int, int]] = []
        self.stdin_fd = self.stdout_fd = self.stderr_fd = -1
        if terminal:
            self.stdout_fd, theirs = pty.openpty()
            self.stdin_fd = self.stdout_fd
            self.process = subprocess.Popen(
                args, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
            )
            os.close(theirs)
        else:
            pipes = [os.pipe(), os.pipe(), os.pipe()]
            self.stdin_fd, self.stdout_fd, self.stderr_fd = pipes[0][1], pipes[1][0], pipes[2][0]
            theirs_3 = (pipes[0][0], pipes[1][1], pipes[2][1])
            self.process = subprocess.Popen(
                args,
                stdin=theirs_3[0],
                stdout=theirs_3[1],
                stderr=theirs_3[2],
                start_new_session=True,
            )
            for fd in theirs_3:
                os.close(fd)
            if not stdin:
                self.end_input()
        for fd in {self.stdin_fd, self.stdout_fd, self.stderr_fd} - {-1}:
            os.set_blocking(fd, False)
        self._pidfd = os.pidfd_open(self.process.pid)

    def resize(self, width: int, height: int) -> None:
        self.sizes.append((width, height))
        if self.terminal:
            size = struct.pack("4H", height, width, 0, 0)
            fcntl.ioctl(self.stdout_fd, termios.TIOCSWINSZ, size)

    def end_input(self) -> None:
        if not self.terminal and self.stdin_fd >= 0:
            os.close(self.stdin_fd)
        self.stdin_fd = -1

    async def wait(self) -> int:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
        code = self.process.wait()
        return code if code >= 0 else 128 - code

    async def close(self) -> None:
        if self.closed:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.wait()
        for fd in {self.stdin_fd, self.stdout_fd, self.stderr_fd, self._pidfd} - {-1}:
            os.close(fd)
        self.closed = True


@dataclass(slots=True)
class Commands:
    """Opens sessions, remembers them. error: to be raised instead; gate: to be waited for."""

    args: tuple[str, ...]
    terminal: bool = False
    error: Exception | None = None
    gate: asyncio.Event | None = None
    sessions: list[ProcessSession] = field(default_factory=list)

    async def open(self) -> ProcessSession:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.sessions.append(ProcessSession(*self.args, terminal=self.terminal))
        return self.sessions[-1]


@dataclass(slots=True)
class Streams:
    """A stream server, and the sessions that it was asked for."""

    server: StreamServer
    commands: list[Commands] = field(default_factory=list)

    def exec(
        self,
        *args: str,
        terminal: bool = False,
        stdin: bool = True,
        creation_timeout: float = 20.0,
        error: Exception | None = None,
    ) -> str:
        """The URL of a command."""
        commands = Commands(args, terminal=terminal, error=error)
        self.commands.append(commands)
        wanted = Wanted(terminal=terminal, stdin=stdin, stdout=True, stderr=not terminal)
        purpose = RemoteCommand("exec", args[0], wanted, commands.open, creation_timeout)
        return self.server.url(purpose)

    @property
    def sessions(self) -> list[ProcessSession]:
        return [session for commands in self.commands for session in commands.sessions]

    def all_over(self) -> bool:
        """No stream is open, no process runs, no descriptor is held."""
        return not self.server.open_streams and all(one.closed for one in self.sessions)


@contextlib.asynccontextmanager
async def streaming(
    address: str = "127.0.0.1:0", *, idle_timeout: float = 60.0, tls: TlsFiles | None = None
) -> AsyncIterator[Streams]:
    """A server; afterwards nothing of it is left: no descriptor, no task, no process."""
    before = descriptors()
    tasks = other_tasks()
    server = StreamServer(
        StreamSettings(Endpoint.parse(address), idle_timeout=idle_timeout, tls=tls)
    )
    await server.start()
    streams = Streams(server)
    try:
        yield streams
    finally:
        await server.close()
    await asyncio.sleep(0)  # the loop closes descriptors in its next turn
    assert streams.all_over()
    assert other_tasks() <= tasks
    left = descriptors().items() - before.items()
    assert not left, left


def other_tasks() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def descriptors() -> dict[int, str]:
    """What is open: number -> what it is. Not the one that looks."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
    return {fd: kind for fd, kind in found.items() if not kind.startswith("/proc/")}
