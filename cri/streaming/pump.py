"""Bytes between descriptors and a connection, never more of them than the other side takes.

    process ──pipe──▶ Source ──frame──▶ connection      a client that is slow stops the reading
    process ◀──pipe── Sink ◀──────────── connection     a process that is slow stops the client

Both work with pipes, terminals and sockets. The descriptors are not theirs: who opened them closes
them, after `close` here.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import mmap
import os
import termios
from collections import deque
from collections.abc import Callable
from itertools import islice

CHUNK = 256 * 1024
PIPE_BYTES = 1024 * 1024  # /proc/sys/fs/pipe-max-size, what root may ask for
_DEFAULT_PIPE_BYTES = 64 * 1024
_HEADROOM = 16  # the longest header before a payload: 11 bytes, of WebSocket
_MOST_PIECES = 1024  # IOV_MAX
_REOPENED = 0.05  # seconds between looks at a terminal that nobody has open
_NO_BUFFER = memoryview(b"")

Bytes = bytes | bytearray | memoryview
Frame = Callable[[memoryview], tuple[bytes, Bytes]]


class Source:
    """Hands on what a descriptor gives.

    A piece is read into a buffer that has room for a header before it, so that frames are sent by
    one call and nothing is copied. After a write that was not sent whole the transport may look at
    the buffer again: `pause` must come before the loop turns, and `resume` when all is out.
    """

    def __init__(
        self,
        fd: int,
        frame: Frame,
        write: Callable[[Bytes], None],
        ended: Callable[[OSError | None], None],
    ) -> None:
        """frame: what to send for a payload. ended: told once, at the end of what there is, or of
        an error that is no end (a reset of a socket). fd is -1: ended at once."""
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._frame = frame
        self._write = write
        self._told = ended
        # pages that are never used are never there, and go back to the kernel at the end
        self._buffer = memoryview(mmap.mmap(-1, _HEADROOM + CHUNK, flags=mmap.MAP_PRIVATE))
        self._payload = self._buffer[_HEADROOM:]
        self._reading = False
        self._paused = False
        self._grown = False
        self._hung_up: asyncio.TimerHandle | None = None
        self._settling = False
        self._owed = -1  # bytes still to be handed on before it may settle
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._paid: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        if self._fd < 0:
            self._end(None)
        else:
            self._watch()

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return self._over.done()

    def pause(self) -> None:
        self._paused = True
        self._unwatch()

    def resume(self) -> None:
        self._paused = False
        self._watch()

    def close(self) -> None:
        """Read no more. Idempotent."""
        self._unwatch()
        if self._hung_up is not None:
            self._hung_up.cancel()
        self._buffer = self._payload = _NO_BUFFER
        for future in (self._over, self._paid):
            if not future.done():
                future.set_result(None)

    async def settle(self, seconds: float) -> None:
        """Wait for the end; or until what is there now is handed on and `seconds` have passed.

        For the moment when a command has ended: what it wrote is in the pipe, but a child that it
        left behind may hold the other end for ever.
        """
        if self.over:
            return
        self._settling = True
        self._watch()  # a terminal: for the last time
        self._owed = _waiting(self._fd)
        if self._owed <= 0:
            self._paid.set_result(None)
        await asyncio.wait([self._over], timeout=seconds)
        await asyncio.wait([self._over, self._paid], return_when=asyncio.FIRST_COMPLETED)

    def _watch(self) -> None:
        if not self._reading and not self._paused and not self.over:
            self._loop.add_reader(self._fd, self._read)
            self._reading = True

    def _unwatch(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._fd)
            self._reading = False

    def _read(self) -> None:
        try:
            count = os.readv(self._fd, [self._payload])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        if not count:
            self._end(None)
            return
        self._hand_on(count)
        if self._owed > 0:
            self._owed -= count
            if self._owed <= 0 and not self._paid.done():
                self._paid.set_result(None)
        if count >= _DEFAULT_PIPE_BYTES and not self._grown:
            self._grown = True
            grow(self._fd)

    def _fail(self, error: OSError) -> None:
        """EIO is no end of a terminal while the command lives: some close theirs and reopen it."""
        if not os.isatty(self._fd):
            self._end(error)
        elif self._settling:
            self._end(None)
        else:
            self._unwatch()
            self._hung_up = self._loop.call_later(_REOPENED, self._watch)

    def _hand_on(self, count: int) -> None:
        payload = self._payload[:count]
        header, body = self._frame(payload)
        if body is payload:
            begin = _HEADROOM - len(header)
            self._buffer[begin:_HEADROOM] = header
            self._write(self._buffer[begin : _HEADROOM + count])
        elif header or body:
            self._write(header + body)

    def _end(self, error: OSError | None) -> None:
        self.close()
        self._told(error)


class Sink:
    """Writes what comes to a descriptor, and keeps what that does not take yet.

    Until `open` everything is kept. When the reader is gone the rest is thrown away: a command that
    has closed its input still wants its output to be seen.
    """

    def __init__(self, drained: Callable[[], None]) -> None:
        """drained: told when a write that answered False is done."""
        self._loop = asyncio.get_running_loop()
        self._drained = drained
        self._fd = -1
        self._kept: deque[memoryview] = deque()
        self._writing = False
        self._closed = False
        self._held = False
        self._grown = False
        self._finish: Callable[[], None] | None = None

    def open(self, fd: int) -> None:
        """Where to write to; -1: nowhere, all is thrown away."""
        self._fd = fd
        if fd < 0:
            self._give_up()
        else:
            self._flush()

    def write(self, *pieces: Bytes) -> bool:
        """False: not all is written; whoever sends it should wait for `drained`."""
        if self._closed or self._finish is not None:
            return True
        self._kept.extend(memoryview(piece) for piece in pieces if len(piece))
        if not self._writing and self._fd >= 0:
            self._flush()
        self._held = bool(self._kept)
        return not self._held

    def end(self, finish: Callable[[], None]) -> None:
        """Call `finish` when everything is written, or nothing more can be."""
        if self._finish is not None:
            return
        self._finish = finish
        if self._closed or (self._fd >= 0 and not self._kept):
            self._stop()
            finish()

    def close(self) -> None:
        """Write no more. Idempotent."""
        self._stop()
        self._kept.clear()
        self._closed = True

    def _flush(self) -> None:
        try:
            while self._kept:
                self._written(os.writev(self._fd, list(islice(self._kept, _MOST_PIECES))))
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._flush)
            if not self._grown:
                self._grown = True
                grow(self._fd)
            return
        except OSError:
            self._give_up()
            return
        self._settled()

    def _written(self, count: int) -> None:
        while count:
            piece = self._kept.popleft()
            if len(piece) > count:
                self._kept.appendleft(piece[count:])
                return
            count -= len(piece)

    def _give_up(self) -> None:
        self._kept.clear()
        self._closed = True
        self._settled()

    def _settled(self) -> None:
        """Nothing is kept."""
        self._stop()
        if self._held:
            self._held = False
            self._drained()
        if self._finish is not None:
            self._finish()

    def _stop(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)


def grow(fd: int) -> None:
    """A larger pipe means fewer wake-ups a megabyte. Other descriptors stay as they are."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _waiting(fd: int) -> int:
    """Bytes that can be read now."""
    count = array.array("i", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]
