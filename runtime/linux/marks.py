"""Processes that carry a mark in the environment they were started with, and so does what they
start: how those are found again that nobody is the parent of."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

_ROUNDS = 20  # of looking for processes that were forked while we looked


def kill(name: str, value: str) -> None:
    """SIGKILL to every process with name=value in its environment; doesn't wait for their end.

    What has the mark by chance has been given it on purpose: value is to be beyond guessing.
    """
    mark = f"{name}={value}".encode()
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        found = set(_marked(mark)) - killed
        if not found:
            return
        killed |= found


def _marked(mark: bytes) -> Iterator[int]:
    """Kills and tells them."""
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            pidfd = os.pidfd_open(int(name))
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        yield int(name)
            finally:
                os.close(pidfd)
