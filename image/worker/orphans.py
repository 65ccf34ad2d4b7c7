"""Workers that a killed daemon has left: they end by themselves, and are waited for."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from image.errors import ImageFault

_PATIENCE: Final = 10.0  # seconds that they get to be gone


@contextmanager
def alone(lock_file: Path) -> Iterator[None]:
    """While no worker process lives: each holds a shared lock on this file to its end.

    Blocks. Raises ImageFault.
    """
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    text = "is locked: another podwright uses this root, or a worker hangs"
                    raise ImageFault(f"{lock_file} {text}") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)
