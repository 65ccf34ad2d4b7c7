"""A client's look at a container's output while it runs, and its hand at the input.

The output is copied as it is read for the log. A reader who lets its pipe fill up is detached:
nobody waits for it, neither the container nor its log, and nobody gets a stream with a gap.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime.linux import fds
from runtime.monitor.messages import Attach, Attached, Detached

if TYPE_CHECKING:
    from runtime.monitor.container import Container
    from runtime.monitor.stdio import OutputStream

Answer = Callable[[object], None]
Begun = Callable[[object, list[int]], None]


class Attachment:
    """One client at one container; its end is answered once."""

    def __init__(self, container: Container, request: Attach, answer: Answer) -> None:
        self._container = container
        self._request = request
        self._answer = answer
        self._taps: list[Tap] = []
        self._ended = False

    def start(self, pipes: list[int], begun: Begun) -> None:
        """Begins to copy. pipes: write ends, as `request.streams` says; the caller's to close.

        A failure leaves what `discard` takes back.
        """
        container = self._container
        terminal = container.request.terminal
        stdin = container.stdin_fd
        for number, pipe in zip(self._request.streams, pipes, strict=True):
            stream = container.output(number)
            if stream is not None:
                tap = Tap(self, stream, os.dup(pipe))
                self._taps.append(tap)
                stream.taps = (*stream.taps, tap)
        container.attachments.append(self)
        attached = Attached(terminal, stdin >= 0, terminal and container.remote_terminal)
        begun(attached, [stdin] if self._gets(stdin) else [])

    def _gets(self, stdin: int) -> bool:
        """The terminal's master is wanted in any case: to tell it the client's window size."""
        return stdin >= 0 and (self._request.stdin or self._container.request.terminal)

    def kill(self) -> None:
        """The client has gone."""
        self.end()

    def end_input(self) -> None:
        """The client has no more input."""
        if self._request.stdin and self._container.request.stdin_once:
            self._container.close_stdin()

    def resize(self, width: int, height: int) -> None:
        """The client's terminal has another size."""
        self._container.resize(width, height)

    def end(self, *, too_slow: bool = False) -> None:
        """No more is copied. Idempotent."""
        if self._ended:
            return
        self.discard()
        self.end_input()
        self._answer(Detached(too_slow))

    def discard(self) -> None:
        """No more is copied, and nobody is told."""
        self._ended = True
        for tap in self._taps:
            tap.close()
        if self in self._container.attachments:
            self._container.attachments.remove(self)


class Tap:
    """A pipe into which what comes out of a stream is copied."""

    def __init__(self, attachment: Attachment, stream: OutputStream, fd: int) -> None:
        self._attachment = attachment
        self._stream = stream
        self._fd = fd
        os.set_blocking(fd, False)

    def take(self, data: bytes) -> None:
        """Copies it all, or ends the attachment: half a copy is none."""
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            written = 0
        except OSError:  # the reader is gone
            self._attachment.end()
            return
        if written < len(data):
            self._attachment.end(too_slow=True)

    def close(self) -> None:
        """The reader comes to its end. Idempotent."""
        fds.close_all((self._fd,))
        self._fd = -1
        self._stream.taps = tuple(tap for tap in self._stream.taps if tap is not self)
