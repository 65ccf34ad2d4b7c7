"""kill -9 at many points of a pull: the next open finds a whole store, the next pull succeeds."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from image.errors import WorkerLost
from image.tests import build
from image.tests.build import file, folder, tar
from image.tests.conftest import OpenStore
from image.tests.invariants import check, tree
from image.tests.registry import FakeRegistry, Fault

pytestmark = pytest.mark.root

FILES = {f"d/{number}": os.urandom(300) for number in range(300)}


def app() -> build.BuiltImage:
    """Four layers, one of which is settled on the others."""
    files = [file(name, data) for name, data in FILES.items()]
    base = tar(folder("d", mode=0o711), *files)
    return build.image(base, tar(file("d/more")), tar(file("top"), file(".wh.gone")), tar())


async def killed_pull(root: Path, reference: str, event: str, count: int) -> int:
    """Its return code: -9 if it got as far as that event."""
    command = [sys.executable, "-m", "image.tests.puller", str(root), reference, event, str(count)]
    process = await asyncio.create_subprocess_exec(*command)
    return await process.wait()


POINTS = [
    ("subprocess.Popen", 1),
    *(("open", count) for count in (3, 5, 12)),  # documents read back, directories synced
    *(("os.rename", count) for count in (1, 3, 4)),  # layers being published
    *(("progress", count) for count in (1, 3, 6)),
]


@pytest.mark.parametrize(("event", "count"), POINTS)
async def test_a_killed_pull_leaves_a_whole_store(
    open_store: OpenStore, fake_registry: FakeRegistry, tmp_path: Path, event: str, count: int
) -> None:
    root = tmp_path / "root"
    name = fake_registry.add(app(), "a", "1")
    assert await killed_pull(root, name, event, count) == -signal.SIGKILL
    store = await open_store()
    check(store)
    image = await store.pull(name)
    lower = store.prepare(image.id, "c").lower
    assert len(lower) == 4
    for path, data in FILES.items():
        assert read(lower[-1], path) == data
    check(store)
    await store.close()
    assert os.listdir(root / "tmp") == ["workers.lock"]


def read(root: str, path: str) -> bytes:
    return (Path(root) / path).read_bytes()


async def test_workers_of_a_killed_daemon_end(
    open_store: OpenStore, fake_registry: FakeRegistry, tmp_path: Path
) -> None:
    """They would write into directories that the next daemon removes: it waits for them."""
    name = fake_registry.add(app(), "a", "1")
    fault = Fault("/blobs/", hold=threading.Event())
    fake_registry.faults.append(fault)
    command = [sys.executable, "-m", "image.tests.puller", str(tmp_path / "root"), name, "none"]
    process = await asyncio.create_subprocess_exec(*command)
    await fault.arrival()
    process.kill()
    await process.wait()
    store = await open_store()
    fault.release()
    await store.pull(name)
    check(store)


async def test_a_killed_worker_fails_the_pull_alone(
    open_store: OpenStore, fake_registry: FakeRegistry
) -> None:
    store = await open_store()
    name = fake_registry.add(app(), "a", "1")
    fault = Fault("/blobs/", hold=threading.Event())
    fake_registry.faults.append(fault)
    pull = asyncio.create_task(store.pull(name))
    await fault.arrival()
    for pid in workers_of(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="killed by signal 9"):
        await pull
    assert tree(store) == []
    fake_registry.faults.clear()
    fault.release()
    await store.pull(name)
    check(store)


def workers_of(parent: int) -> list[int]:
    """Its worker processes. Threads and children may end meanwhile."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        for pid in _read(task / "children").split():
            if b"image.worker" in _read(Path(f"/proc/{int(pid)}/cmdline")):
                found.append(int(pid))
    return found


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
