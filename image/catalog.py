"""The record of images and layers: SQLite on disk, dictionaries in memory.

Readers look at the dictionaries and never wait. A change is committed first, durably (WAL,
synchronous=FULL) and in a thread of its own, and shown in memory after. What has a row exists on
disk, whole.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from image.digest import Digest
from image.errors import ImageFault, StorageFull

SCHEMA: Final = 1
# migrations[n] brings a database from version n to n + 1.
_MIGRATIONS: Final = (
    """
    CREATE TABLE layer (
        id TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL, inodes INTEGER NOT NULL, opaque INTEGER NOT NULL,
        root_mode INTEGER, root_uid INTEGER, root_gid INTEGER,
        created_at INTEGER NOT NULL, pending INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE image (
        id TEXT PRIMARY KEY, manifest TEXT NOT NULL, pulled_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE image_layer (
        image_id TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
        position INTEGER NOT NULL,
        layer_id TEXT NOT NULL REFERENCES layer,
        PRIMARY KEY (image_id, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE name (
        name TEXT PRIMARY KEY, image_id TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
        target TEXT NOT NULL
    ) STRICT;
    """,
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """A directory layers/<id>.

    key: "diff:<diff id>", or "chain:<chain id>" for one that fits only upon the layers it was
    settled with; root: (mode, uid, gid) that the archive gives its root, if it does;
    opaque: nothing below shows through; pending: put there by a pull that has not ended yet.
    """

    id: str
    key: str
    size: int
    inodes: int
    opaque: bool
    root: tuple[int, int, int] | None
    created_at: int
    pending: bool


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image. layers: ids from the bottom up; names: tag or digest reference -> its target.

    target: digest of the manifest or index which the name stands for.
    """

    id: str
    manifest: Digest
    layers: tuple[str, ...]
    pulled_at: int
    names: tuple[tuple[str, Digest], ...]


class Catalog:
    """Layers and images by id, layers by key, images by name. Change only through the methods."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self.layers: dict[str, LayerRecord] = {}
        self.by_key: dict[str, LayerRecord] = {}
        self.images: dict[str, ImageRecord] = {}
        self.by_name: dict[str, str] = {}
        self._database = database
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="catalog")

    @classmethod
    async def open(cls, path: Path) -> Catalog:
        """Raises ImageFault when the file was written by a newer podwright, or is damaged."""
        catalog = cls(await asyncio.to_thread(_connect, path), path)
        await catalog._run(catalog._load)
        return catalog

    async def close(self) -> None:
        """After what is under way."""
        await self._run(self._database.close)
        self._thread.shutdown()

    async def add_layer(self, record: LayerRecord) -> None:
        """Record a layer whose directory is in place. Raises StorageFull."""
        await self._run(lambda: self._insert_layer(record), lambda: self._show(record))

    async def add_image(self, record: ImageRecord) -> None:
        """Record an image, or its further names; its layers are no longer pending.

        A name that another image had moves to this one. Raises StorageFull.
        """
        old = self.images.get(record.id)
        names = dict(old.names if old else ()) | dict(record.names)
        merged = replace(record, names=tuple(names.items()))
        await self._run(lambda: self._insert_image(merged), lambda: self._show_image(merged))

    async def remove_image(self, image_id: str) -> None:
        """Forget an image and its names. From this very call on readers don't see it."""
        record = self.images.pop(image_id)
        for name, _ in record.names:
            self.by_name.pop(name, None)
        await self._run(
            lambda: self._delete("DELETE FROM image WHERE id = ?", [image_id]),
            failed=lambda: self._show_image(record),
        )

    async def remove_layers(self, ids: Collection[str]) -> None:
        """Forget layers which no image has. From this very call on nobody finds them."""
        records = [self.layers.pop(layer_id) for layer_id in ids]
        for record in records:
            del self.by_key[record.key]
        await self._run(
            lambda: self._delete("DELETE FROM layer WHERE id = ?", ids),
            failed=lambda: self._show(*records),
        )

    def abandon(self, ids: Iterable[str]) -> None:
        """Layers are not pending any more; for the next collection, which follows at once."""
        self._show(*(replace(self.layers[layer_id], pending=False) for layer_id in ids))

    def _show(self, *records: LayerRecord) -> None:
        for record in records:
            self.layers[record.id] = record
            self.by_key[record.key] = record

    def _show_image(self, record: ImageRecord) -> None:
        for name, _ in record.names:
            owner = self.by_name.get(name)
            if owner is not None and owner != record.id:
                loser = self.images[owner]
                kept = tuple(item for item in loser.names if item[0] != name)
                self.images[owner] = replace(loser, names=kept)
            self.by_name[name] = record.id
        self.images[record.id] = record
        for layer_id in record.layers:
            self._show(replace(self.layers[layer_id], pending=False))

    async def _run(
        self,
        work: Callable[[], T],
        done: Callable[[], object] = lambda: None,
        failed: Callable[[], object] = lambda: None,
    ) -> T:
        """Do `work` in the database's thread, then `done` or `failed` here.

        Both happen even if the caller is cancelled meanwhile: memory follows the disk.
        """

        def follow(future: asyncio.Future[T]) -> None:
            if future.exception() is None:
                done()
            else:
                failed()

        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(follow)
        try:
            return await asyncio.shield(future)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise StorageFull(str(self._path), str(error)) from error
            raise

    # --- in the database's thread -----------------------------------------------------------------

    def _load(self) -> None:
        for row in self._database.execute("SELECT * FROM layer"):
            layer_id, key, size, inodes, opaque, mode, uid, gid, created_at, pending = row
            root = None if mode is None else (mode, uid, gid)
            record = LayerRecord(
                layer_id, key, size, inodes, bool(opaque), root, created_at, bool(pending)
            )
            self._show(record)
        layers: dict[str, list[str]] = {}
        query = "SELECT image_id, layer_id FROM image_layer ORDER BY image_id, position"
        for image_id, layer_id in self._database.execute(query):
            layers.setdefault(image_id, []).append(layer_id)
        names: dict[str, list[tuple[str, Digest]]] = {}
        for name, image_id, target in self._database.execute("SELECT * FROM name ORDER BY name"):
            names.setdefault(image_id, []).append((name, Digest.parse(target)))
            self.by_name[name] = image_id
        for image_id, manifest, pulled_at in self._database.execute("SELECT * FROM image"):
            self.images[image_id] = ImageRecord(
                image_id,
                Digest.parse(manifest),
                tuple(layers.get(image_id, ())),
                pulled_at,
                tuple(names.get(image_id, ())),
            )

    def _insert_layer(self, record: LayerRecord) -> None:
        root = record.root or (None, None, None)
        with self._database:
            self._database.execute(
                "INSERT INTO layer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id,
                    record.key,
                    record.size,
                    record.inodes,
                    record.opaque,
                    *root,
                    record.created_at,
                    record.pending,
                ),
            )

    def _insert_image(self, record: ImageRecord) -> None:
        execute = self._database.execute
        with self._database:
            execute(
                "INSERT INTO image VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "manifest = excluded.manifest, pulled_at = excluded.pulled_at",
                (record.id, str(record.manifest), record.pulled_at),
            )
            execute("DELETE FROM image_layer WHERE image_id = ?", (record.id,))
            for position, layer_id in enumerate(record.layers):
                execute("INSERT INTO image_layer VALUES (?, ?, ?)", (record.id, position, layer_id))
                execute("UPDATE layer SET pending = 0 WHERE id = ?", (layer_id,))
            for name, target in record.names:
                execute(
                    "INSERT OR REPLACE INTO name VALUES (?, ?, ?)", (name, record.id, str(target))
                )

    def _delete(self, statement: str, ids: Iterable[str]) -> None:
        with self._database:
            self._database.executemany(statement, [(item,) for item in ids])


def _connect(path: Path) -> sqlite3.Connection:
    """The database, brought to our schema."""
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            database.execute(f"PRAGMA {pragma}")
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            text = f"{path} has schema {version}, this podwright knows {SCHEMA}: use the newer one"
            raise ImageFault(text)
        for script in _MIGRATIONS[version:]:
            version += 1
            database.executescript(f"BEGIN; {script}; PRAGMA user_version = {version}; COMMIT;")
    except sqlite3.DatabaseError as error:
        database.close()
        text = f"{path}: {error}; if it is damaged, remove it and the images will be pulled again"
        raise ImageFault(text) from error
    except BaseException:
        database.close()
        raise
    return database
