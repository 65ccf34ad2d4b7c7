"""What spawner, monitors and the programs they run say, where no journal takes it: one file.

Its writers live as long as pods do and all append to the one open file, so it is never renamed: the
daemon looks at it now and then, and when it has grown beyond LIMIT, its end is kept aside and the
file emptied. A line that is written in that moment is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

LIMIT = 1 << 20  # bytes: it lies in memory, on most nodes
KEPT = LIMIT // 2  # of its end, in spawner.log.1
PAUSE = 10.0  # seconds between two looks


class Output:
    """STATE/spawner.log, and STATE/spawner.log.1, which is what came before."""

    def __init__(self, state: Path) -> None:
        self.path = state / "spawner.log"
        self._kept = state / "spawner.log.1"

    def open(self) -> int:
        """A descriptor to append by, which is the caller's to close."""
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def last_words(self) -> str:
        """For an error: the last line, and where the others are."""
        lines = self.path.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1]} (all of it: {self.path})" if lines else "nothing"

    def bound(self) -> None:
        """Empty the file if it is too large; that its end can't be kept is no reason not to."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size <= LIMIT:
                return
            file.seek(size - KEPT)
            with contextlib.suppress(OSError):
                self._kept.write_bytes(file.read(KEPT))
            file.truncate(0)
            log.warning("%s had %d bytes; the last are in %s", self.path, size, self._kept)

    async def keep_bounded(self) -> None:
        """Look at it every PAUSE seconds. Never returns."""
        while True:
            try:
                await asyncio.to_thread(self.bound)
            except OSError as error:
                log.warning("%s can't be kept small: %s", self.path, error)
            await asyncio.sleep(PAUSE)
