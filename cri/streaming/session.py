"""What streaming needs of a command or a container: descriptors, and what can be done to it."""

from __future__ import annotations

from typing import Protocol


class Session(Protocol):
    """A command that runs (exec), or a view of a container that runs (attach).

    Its descriptors are non-blocking and its own; -1: there is none. A terminal's master may stand
    for both directions, and a read of it raises EIO at its end.
    """

    @property
    def terminal(self) -> bool: ...

    @property
    def stdin_fd(self) -> int:
        """Written to."""

    @property
    def stdout_fd(self) -> int:
        """Read from."""

    @property
    def stderr_fd(self) -> int:
        """Read from; -1 with a terminal."""

    def resize(self, width: int, height: int) -> None:
        """Columns and rows of the terminal; ignored without one, and after the end."""

    def end_input(self) -> None:
        """There is no more input. Closes stdin_fd, unless that is the terminal we read from."""

    async def wait(self) -> int:
        """The exit code, 128+N after signal N; of an attachment 0 when the output has ended.

        Bytes may still be in the pipes then. Raises AttachmentTooSlow.
        """

    async def close(self) -> None:
        """Release everything; a command that still runs is killed. Idempotent, raises nothing."""
