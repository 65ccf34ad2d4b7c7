"""What must be true of a store whenever nothing is under way in it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from image.store import ImageStore


def root_of(store: ImageStore) -> Path:
    return store._root


def tree(store: ImageStore) -> list[str]:
    """The layers on disk."""
    return sorted(set(os.listdir(root_of(store) / "layers")) - {"0"})


def check(store: ImageStore) -> None:
    """Directories and records agree; no image lacks anything; nothing is left over."""
    root = root_of(store)
    database = sqlite3.connect(root / "images.db")
    rows = {row[0] for row in database.execute("SELECT id FROM layer")}
    used = {row[0] for row in database.execute("SELECT layer_id FROM image_layer")}
    images = {row[0] for row in database.execute("SELECT id FROM image")}
    manifests = {row[0] for row in database.execute("SELECT manifest FROM image")}
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert set(tree(store)) == rows
    assert images == {image.id for image in store.list()}
    held = {item for ids in store._snapshots.used.values() for item in ids}
    pending = {layer.id for layer in store._catalog.layers.values() if layer.pending}
    assert rows - used - held - pending == set()
    assert os.listdir(root / "content" / "ingest") == []
    blobs = {f"sha256:{name}" for name in os.listdir(root / "content" / "blobs" / "sha256")}
    assert images | manifests <= blobs
