"""Directories on their way out: moved to tmp at once, emptied in the background.

What a kill leaves in tmp, the next open removes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from image import directory

_log: Final = logging.getLogger(__name__)


class Trash:
    """New names in tmp, and the removal of what has one."""

    def __init__(self, tmp: Path) -> None:
        self._tmp = tmp
        self._numbers = itertools.count(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trash")
        self._tasks: set[asyncio.Task[None]] = set()

    def name(self) -> Path:
        """A path in tmp that nobody has: to build something at, or to move something to."""
        return self._tmp / str(next(self._numbers))

    async def remove(self, path: Path) -> None:
        """Remove a tree in tmp; an absent one is fine. Errors are logged: the next open retries."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, directory.remove_tree, path)
        except OSError:
            _log.exception("could not remove %s; it will be tried again at the next start", path)

    def remove_later(self, path: Path) -> None:
        """`remove`, in the background."""
        self.spawn(self.remove(path))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run something that `close` waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for all removals."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))
        self._thread.shutdown()


def empty(tmp: Path, *, but: str) -> None:
    """Remove what an earlier daemon has left; `but` is the name of a file that stays."""
    for path in tmp.iterdir():
        if path.name != but:
            directory.remove_tree(path)
