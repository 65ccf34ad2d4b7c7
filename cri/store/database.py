"""SQLite beneath the store: one connection, WAL, a transaction a change, a schema version.

synchronous=NORMAL: a change survives `kill -9` of the daemon at any moment; a power cut may take
the last ones back, but it ends their processes as well. A commit is a write to the page cache and
never waits for a disk; the checkpoint, which does, runs in a worker thread on its own connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from typing import TYPE_CHECKING

from cri.errors import CriFault, StateDiskFull, StateNotWritten

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

# Schema version n is reached by running script n - 1; scripts are never changed, only added.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY, metadata TEXT NOT NULL, config BLOB NOT NULL, status TEXT NOT NULL
    ) STRICT;
    CREATE TABLE containers (
        id TEXT PRIMARY KEY, metadata TEXT NOT NULL, config BLOB NOT NULL, status TEXT NOT NULL
    ) STRICT;
    """,
)
_NO_FAULT_OF_THE_FILE = frozenset(
    (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
)
CHECKPOINT_AFTER = 1000  # changes: a few MB of WAL


class StateUnreadable(CriFault):
    """The state database can't be used; the text says what to do."""


class Database:
    """The state database, open. Used from one thread: the loop's."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._changes = 0
        self._checkpoint: asyncio.Task[None] | None = None

    @classmethod
    def open(cls, path: Path, *, migrations: Sequence[str] = MIGRATIONS) -> Database:
        """Open or make the database, brought to the newest schema. Raises StateUnreadable."""
        try:
            _keep_private(path)
            connection = sqlite3.connect(path, isolation_level=None, timeout=5)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA cache_size = -512")
            _migrate(path, connection, migrations)
        except (OSError, sqlite3.Error) as error:
            raise StateUnreadable(f"{path}: {_why(error)}") from error
        return cls(path, connection)

    def rows(self, table: str) -> list[tuple[str, str, bytes, str]]:
        """All rows of a table: id, metadata, config, status; in the order in which they came."""
        sql = f"SELECT id, metadata, config, status FROM {table} ORDER BY rowid"  # noqa: S608 - ours
        return self._connection.execute(sql).fetchall()

    def execute(self, sql: str, *parameters: str | bytes) -> None:
        """One change, one transaction. Raises StateNotWritten: nothing was changed."""
        try:
            self._connection.execute(sql, parameters)
        except sqlite3.OperationalError as error:
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            kind = StateDiskFull if full else StateNotWritten
            remedy = ": free some space" if full else ""
            raise kind(f"{self._path}: {error}{remedy}") from error
        self._changes += 1
        if self._changes >= CHECKPOINT_AFTER:
            self._start_checkpoint()

    def close(self) -> None:
        """Write everything into the main file, and close."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def _start_checkpoint(self) -> None:
        if self._checkpoint is not None and not self._checkpoint.done():
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop, nobody to keep waiting
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)")
        else:
            self._checkpoint = loop.create_task(asyncio.to_thread(_checkpoint, self._path))
        self._changes = 0


def _why(error: OSError | sqlite3.Error) -> str:
    """What keeps the database from being opened, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is a detail of it
    if isinstance(error, OSError) or code in _NO_FAULT_OF_THE_FILE:
        said = error.strerror if isinstance(error, OSError) else error
        return f"{said}: is the disk full, or read-only?"
    return (
        f"{error}: podwright can't tell which pods it has. Repair it with sqlite3, or move it "
        "away, restart the node, and let its pods be made anew"
    )


def _keep_private(path: Path) -> None:
    """Containers' environments hold passwords. What SQLite puts beside the file gets its mode."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _checkpoint(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=5)) as connection:
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            log.warning("%s: checkpoint failed, the WAL keeps growing: %s", path, error)


def _migrate(path: Path, connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StateUnreadable(
            f"{path}: written by a newer podwright (schema {version}, this one knows "
            f"{len(migrations)}): install that version again, or a newer one"
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        with _transaction(connection):
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


def _statements(script: str) -> list[str]:
    return [statement for statement in script.split(";") if statement.strip()]


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
