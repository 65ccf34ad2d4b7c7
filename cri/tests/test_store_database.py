"""The state database: what was written survives the daemon; a bad file is told with a remedy."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cri.errors import (
    StateNotWritten,
)
from cri.store.database import MIGRATIONS, Database, StateUnreadable
from cri.store.sandbox import SandboxState
from cri.store.store import Store
from cri.tests.records import sandbox

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_nobody_else_may_read_what_containers_were_given(path: Path) -> None:
    """An environment holds passwords, and the directory may be open to all."""
    path.touch(mode=0o644)
    store = Store.open(path)
    modes = {name: (path.parent / name).stat().st_mode for name in os.listdir(path.parent)}
    store.close()
    assert {mode & 0o777 for mode in modes.values()} == {0o600}, modes


def test_what_was_written_survives_kill_9_without_closing(path: Path) -> None:
    program = """
import os, sys, pathlib
from cri.store.store import Store
from cri.tests.records import sandbox
store = Store.open(pathlib.Path(sys.argv[1]))
while True:
    print(store.sandboxes.add(sandbox()).id, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    told = [child.stdout.readline().decode().strip() for _ in range(300)]
    child.send_signal(signal.SIGKILL)
    told += child.stdout.read().decode().split("\n")
    child.wait()
    child.stdout.close()
    store = Store.open(path)
    whole = {line for line in told if len(line) == 64}
    assert whole <= {record.id for record in store.sandboxes}
    store.close()


def test_one_unreadable_record_does_not_keep_the_others_from_living(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(path)
    bad, good = store.sandboxes.add(sandbox("bad")), store.sandboxes.add(sandbox("good"))
    store.close()
    connection = sqlite3.connect(path)
    connection.execute('UPDATE sandboxes SET status = \'{"state": "odd"}\' WHERE id = ?', (bad.id,))
    connection.commit()
    connection.close()
    again = Store.open(path)
    assert [record.id for record in again.sandboxes] == [good.id]
    assert f"sandboxes {bad.id} can't be read" in caplog.text
    again.close()


def test_a_database_of_a_newer_podwright_is_refused_and_left_alone(path: Path) -> None:
    Store.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateUnreadable, match=r"written by a newer podwright \(schema 99"):
        Store.open(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (99,)
    connection.close()


def test_an_older_database_is_migrated_and_keeps_its_records(path: Path) -> None:
    store = Store.open(path)
    web = store.sandboxes.add(sandbox())
    store.close()
    newer = (*MIGRATIONS, "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('hello');")
    database = Database.open(path, migrations=newer)
    assert [row[0] for row in database.rows("sandboxes")] == [web.id]
    database.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)
    assert connection.execute("SELECT text FROM notes").fetchall() == [("hello",)]
    connection.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(path: Path) -> None:
    Store.open(path).close()
    broken = (*MIGRATIONS, "CREATE TABLE half (x TEXT); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(StateUnreadable, match="no such table: nowhere"):
        Database.open(path, migrations=broken)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall()
    assert tables == []
    connection.close()


def test_a_file_that_is_no_database_is_told_with_a_remedy(path: Path) -> None:
    path.write_bytes(b"this is not SQLite" * 100)
    with pytest.raises(StateUnreadable, match=r"state\.db: file is not a database: .*move it away"):
        Store.open(path)


def fill(store: Store) -> None:
    """Add records for ever."""
    while True:
        store.sandboxes.add(sandbox())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
def test_a_full_disk_is_told_as_such_and_gives_the_state_back_when_it_has_room(
    tmp_path: Path,
) -> None:
    program = f"""
import pathlib
from cri.errors import StateDiskFull
from cri.store.store import Store
from cri.tests.records import sandbox
from cri.tests.test_store_database import fill
disk = pathlib.Path({str(tmp_path)!r})
ballast = disk / "ballast"
ballast.write_bytes(bytes(300 * 1024))
store = Store.open(disk / "state.db")
web = store.sandboxes.add(sandbox())
try:
    fill(store)
except StateDiskFull as error:
    print(error)
before = len(store.sandboxes)
ballast.unlink()
store.sandboxes.add(sandbox())
store.close()
assert len(Store.open(disk / "state.db").sandboxes) == before + 1
"""
    mounted = f'mount -t tmpfs -o size=600k small {tmp_path} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted, "sh", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "database or disk is full: free some space" in done.stdout


def test_a_change_that_can_not_be_written_is_not_seen(path: Path) -> None:
    store = Store.open(path)
    web = store.sandboxes.add(sandbox())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        with pytest.raises(StateNotWritten, match=r"state\.db: "):
            fill(store)
        with pytest.raises(StateNotWritten):
            store.sandboxes.update(web.id, lambda s: s.to(SandboxState.READY))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert store.sandboxes.get(web.id).status.state is SandboxState.INITIALIZING
    store.sandboxes.update(web.id, lambda s: s.to(SandboxState.READY))
    store.close()


async def test_the_wal_is_written_back_while_the_daemon_runs(path: Path) -> None:
    store = Store.open(path)
    web = store.sandboxes.add(sandbox())
    wal = path.with_name("state.db-wal")
    largest = 0
    for round_ in range(5):
        for number in range(1000):
            ips = (f"10.0.{round_}.{number}",)
            store.sandboxes.update(web.id, functools.partial(dataclasses.replace, ips=ips))
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        largest = max(largest, wal.stat().st_size)
    assert largest < 2.5 * 1000 * (4096 + 24)
    store.close()
