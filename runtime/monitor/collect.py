"""Collects what an exec'ed command prints, in the daemon: pipes made here, written there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from runtime.monitor.messages import Executed

READ_BYTES = 256 * 1024
DRAIN_PATIENCE = 1.0  # seconds that a background child may hold the pipe after the command's end

Ask = Callable[[tuple[int, int, int]], Awaitable[Executed]]


class _Collector:
    """Reads one pipe to its end, keeps the first `limit` bytes, throws the rest away."""

    def __init__(self, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read_fd, False)
        self.data = bytearray()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._read_fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._read_fd, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self.data += data[: self._limit - len(self.data)]
        else:
            self._end()

    def _end(self) -> None:
        self._loop.remove_reader(self._read_fd)
        if not self.ended.done():
            self.ended.set_result(None)

    def close_write(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close(self) -> None:
        self.close_write()
        self._loop.remove_reader(self._read_fd)
        os.close(self._read_fd)


async def collect_output(ask: Ask, limit: int) -> tuple[Executed, bytes, bytes]:
    """Calls `ask` with descriptors (stdin, stdout, stderr); answers its answer and the output.

    limit: bytes kept of each stream. A child that goes on holding the pipes after the command's
    end is given DRAIN_PATIENCE, then its output is cut (CVE-2026-53495).
    """
    stdout, stderr = _Collector(limit), _Collector(limit)
    # Nothing to read, yet not /dev/null: a container's root could chmod the node's by this.
    stdin, write_end = os.pipe2(os.O_CLOEXEC)
    os.close(write_end)
    try:
        executed = await ask((stdin, stdout.write_fd, stderr.write_fd))
        stdout.close_write()
        stderr.close_write()
        await asyncio.wait({stdout.ended, stderr.ended}, timeout=DRAIN_PATIENCE)
        return executed, bytes(stdout.data), bytes(stderr.data)
    finally:
        os.close(stdin)
        stdout.close()
        stderr.close()
