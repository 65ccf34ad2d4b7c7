"""A process that pulls, to be killed: `python -m image.tests.puller ROOT REFERENCE EVENT [COUNT]`.

EVENT: a Python audit event (os.rename, sqlite3.connect …, https://docs.python.org/3/library/
audit_events.html) of the daemon's side; at its COUNT-th occurrence the process kills itself.
"none": it never does. "progress": at the COUNT-th progress report.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from image.store import ImageStore, PullProgress
from image.tests.conftest import settings


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _pull(root: Path, reference: str, event: str, count: int) -> None:
    left = count

    def tick(name: str) -> None:
        nonlocal left
        if name == event:
            left -= 1
            if not left:
                _die()

    store = await ImageStore.open(root, settings(parallel_layers=2))
    sys.addaudithook(lambda name, _: tick(name))

    def report(progress: PullProgress) -> None:
        if progress.stage == "pulling":
            tick("progress")

    await store.pull(reference, progress=report)
    await store.close()


if __name__ == "__main__":
    asyncio.run(_pull(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int((*sys.argv, "1")[4])))
