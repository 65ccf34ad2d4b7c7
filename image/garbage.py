"""Removes what nothing reaches any more: `collect` decides, this does it.

After each change that may leave something behind, and when the layers of an interrupted pull have
waited long enough for its next try.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image import collect
from image.catalog import Catalog, ImageRecord
from image.content import Content
from image.digest import Digest
from image.errors import ImageFault
from image.manifest import MANIFEST_LIMIT, Manifest, parse
from image.pull import Images, Layers
from image.pull.trash import Trash
from image.settings import ImageSettings
from image.snapshot import Snapshots

_log: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Garbage:
    """The parts of a store that are cleaned. blobs: bytes and number of those that have stayed."""

    root: Path
    settings: ImageSettings
    catalog: Catalog
    content: Content
    snapshots: Snapshots
    layers: Layers
    images: Images
    trash: Trash
    blobs: tuple[int, int] = (0, 0)
    _timer: asyncio.TimerHandle | None = None

    async def tidy(self, *, documents: bool = True) -> None:
        """Remove what nothing reaches. What can't be removed now is only logged: it waits for the
        next time, and must not turn a pull that succeeded into one that failed.
        """
        try:
            await self._collect_layers()
            if documents:
                await self._collect_blobs()
        except (OSError, ImageFault):
            _log.exception("garbage could not be collected; it will be tried again")

    async def _collect_blobs(self) -> None:
        async with self.images.sweeping:
            if not self.images.under_way:
                records = tuple(self.catalog.images.values())
                self.blobs = await asyncio.to_thread(self._sweep_blobs, records)

    async def _collect_layers(self) -> None:
        catalog = self.catalog
        since = time.time_ns() - int(self.settings.interrupted_seconds * 1e9)
        used = [*self.snapshots.used.values(), *self.layers.leased]
        ids = collect.layers(catalog.layers.values(), catalog.images.values(), used, since)
        if ids:
            await catalog.remove_layers(ids)
            for layer_id in ids:
                self.throw_away(self.root / "layers" / layer_id)
        if self._timer is None and any(layer.pending for layer in catalog.layers.values()):
            loop = asyncio.get_running_loop()
            delay = self.settings.interrupted_seconds + 1
            self._timer = loop.call_later(delay, self._collect_later)

    def _collect_later(self) -> None:
        """Layers of an interrupted pull have waited long enough for its next try."""
        self._timer = None
        self.trash.spawn(self.tidy())

    def _sweep_blobs(self, records: Collection[ImageRecord]) -> tuple[int, int]:
        """Bytes and number of the blobs that stay."""
        self.content.create()
        stored = {digest: status.st_size for digest, status in self.content.scan()}
        for digest in collect.blobs(stored, map(self._reached, records)):
            self.content.remove(digest)
            del stored[digest]
        return sum(stored.values()), len(stored)

    def _reached(self, record: ImageRecord) -> set[Digest]:
        """The blobs of an image: its documents, and its layers' if those are kept."""
        reached = {
            record.manifest,
            Digest.parse(record.id),
            *(target for _, target in record.names),
        }
        if self.settings.keep_blobs:
            manifest = parse(self.content.read(record.manifest, MANIFEST_LIMIT), "", record.id)
            assert isinstance(manifest, Manifest)
            reached.update(layer.digest for layer in manifest.layers)
        return reached

    def throw_away(self, path: Path) -> None:
        """A directory loses its name at once, and its files in the background."""
        target = self.trash.name()
        path.rename(target)
        self.trash.remove_later(target)

    def close(self) -> None:
        """Nothing is collected later."""
        if self._timer is not None:
            self._timer.cancel()
