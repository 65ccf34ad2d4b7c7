"""What containers have written: kept, and counted in a worker."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from image.errors import WorkerLost
from image.store import ImageStore
from image.tests.build import app
from image.tests.conftest import OpenStore
from image.tests.invariants import root_of
from image.tests.test_kill import workers_of
from image.tests.test_store import imported

MIB = 1 << 20


@pytest.fixture
async def upper(store: ImageStore) -> Path:
    """The writable directory of container c1."""
    return Path(store.prepare(await imported(store, app()), "c1").upper)


async def test_a_new_container_has_written_nothing(store: ImageStore, upper: Path) -> None:
    found = store.writable.find("c1")
    assert found is not None
    assert (found.inodes, found.whole) == (1, True)
    assert found.bytes == os.stat(upper).st_blocks * 512
    assert store.writable.find("c2") is None


async def test_a_number_is_kept_until_it_is_taken_anew(store: ImageStore, upper: Path) -> None:
    before = store.writable.find("c1")
    assert before is not None
    (upper / "data").write_bytes(os.urandom(2 * MIB))
    assert store.writable.find("c1") == before
    await store.writable.take(["c1", "unknown"])
    after = store.writable.find("c1")
    assert after is not None
    assert 2 * MIB <= after.bytes - before.bytes < 3 * MIB
    assert after.inodes == 2
    assert after.taken_at > before.taken_at
    assert after.seconds > 0
    assert store.writable.find("unknown") is None


async def test_all_of_it_is_in_the_usage_of_the_file_system(store: ImageStore, upper: Path) -> None:
    before = store.usage().containers
    (upper / "data").write_bytes(os.urandom(MIB))
    await store.writable.take(["c1"])
    after = store.usage().containers
    assert MIB <= after.bytes - before.bytes < 2 * MIB
    assert after.inodes == before.inodes + 1
    await store.discard("c1")
    assert store.usage().containers.bytes == 0
    assert store.writable.find("c1") is None


async def test_counting_leaves_no_process_behind(store: ImageStore, upper: Path) -> None:
    await store._pool.close()  # the import's worker is still warm
    await store.writable.take(["c1"])
    assert workers_of(os.getpid()) == []


async def test_a_container_removed_meanwhile_is_not_kept(store: ImageStore, upper: Path) -> None:
    taking = asyncio.ensure_future(store.writable.take(["c1"]))
    await asyncio.sleep(0)  # it has been asked for
    await store.discard("c1")
    await taking
    assert store.writable.find("c1") is None


async def test_a_worker_that_is_killed_changes_no_number(store: ImageStore, upper: Path) -> None:
    await store._pool.close()
    before = store.writable.find("c1")
    taking = asyncio.ensure_future(store.writable.take(["c1"]))
    while not workers_of(os.getpid()):  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0.001)
    for pid in workers_of(os.getpid()):
        os.kill(pid, 9)
    with pytest.raises(WorkerLost):
        await taking
    assert store.writable.find("c1") == before


async def test_after_a_restart_numbers_come_with_the_first_count(
    store: ImageStore, upper: Path, open_store: OpenStore
) -> None:
    (upper / "data").write_bytes(os.urandom(MIB))
    await store.close()
    again = await open_store(root_of(store))
    assert again.writable.find("c1") is None
    await again.writable.take(["c1"])
    found = again.writable.find("c1")
    assert found is not None
    assert found.bytes >= MIB


async def test_the_file_system_is_the_one_that_holds_them(store: ImageStore) -> None:
    found = store.writable.file_system()
    status = os.stat(store.writable.mountpoint)
    assert os.makedev(found.major, found.minor) == status.st_dev
    assert found.bytes > 0
    assert found.inodes >= found.inodes_free
