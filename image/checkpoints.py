"""Checkpoints of containers, as far as they are files: packed, unpacked, and told from images.

All work on them is done by worker processes: what they read, strangers wrote.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from image.catalog import Catalog
from image.checkpoint.owners import Owners
from image.content import Content
from image.errors import ImageFault, ImageNotFound
from image.manifest import MANIFEST_LIMIT, Manifest, parse
from image.settings import UnpackLimits
from image.snapshot import Overlay, Snapshots
from image.worker.messages import (
    ApplyDiff,
    Pack,
    PackDiff,
    Packed,
    Settled,
    TakeCheckpoint,
    Taken,
)
from image.worker.pool import Pool, expect

# The annotations by which CRI-O, and containerd, know an image that is a checkpoint.
ANNOTATIONS: Final = (
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "org.criu.checkpoint.container.name",
)


class Checkpoints:
    """Part of an `ImageStore`."""

    def __init__(
        self, catalog: Catalog, content: Content, snapshots: Snapshots, pool: Pool
    ) -> None:
        self._catalog = catalog
        self._content = content
        self._snapshots = snapshots
        self._pool = pool
        self._known: dict[str, bool] = {}  # by the digest of a manifest, which says it for ever

    async def is_one(self, image_id: str) -> bool:
        """Whether an image is a checkpoint, by its manifest's annotations. It is read once."""
        record = self._catalog.images.get(image_id)
        if record is None:
            return False
        key = str(record.manifest)
        if key not in self._known:
            data = await asyncio.to_thread(self._content.read, record.manifest, MANIFEST_LIMIT)
            manifest = parse(data, "", image_id)
            annotations = manifest.annotations if isinstance(manifest, Manifest) else {}
            self._known[key] = any(name in annotations for name in ANNOTATIONS)
        return self._known[key]

    def warm(self) -> None:
        """Has a worker ready: what it is needed for first is done while containers stand still."""
        self._pool.warm(1)

    async def pack_diff(self, container_id: str, target: Path, owners: Owners | None) -> None:
        """What a container changed in its files, as a layer. Raises StorageFull, ImageFault."""
        job = PackDiff(self._overlay(container_id).upper, str(target), owners)
        await expect(Packed, self._pool.run(job))

    async def pack(self, source: Path, location: Path) -> int:
        """An archive of a directory; its size. Raises AlreadyThere, StorageFull, ImageFault."""
        packed = await expect(Packed, self._pool.run(Pack(str(source), str(location))))
        return packed.size

    async def take(self, archive: Path | None, image_id: str, target: Path) -> str:
        """The files of a checkpoint, from an archive or else an image, into an empty directory.

        Answers what it says of itself, JSON. Raises ArchiveMalformed, StorageFull, ImageFault.
        """
        layers: tuple[str, ...] = ()
        if archive is None:
            record = self._catalog.images.get(image_id)
            if record is None:
                raise ImageNotFound(image_id)
            layers = tuple(str(self._snapshots.layers / name) for name in reversed(record.layers))
        path = str(archive) if archive is not None else ""
        job = TakeCheckpoint(path, layers, str(target), UnpackLimits().reserve_bytes)
        return (await expect(Taken, self._pool.run(job))).config

    async def pack_memory(self, source: Path, target: Path) -> None:
        """A copy of a pod's /dev/shm, as a layer: a new file. Raises StorageFull, ImageFault."""
        await expect(Packed, self._pool.run(PackDiff(str(source), str(target), durable=True)))

    async def unpack_memory(self, source: Path, target: Path) -> None:
        """What `pack_memory` made, if it is a file and no link, into a new directory.

        Raises ArchiveMalformed, LayerMalformed, StorageFull, ImageFault.
        """
        job = ApplyDiff(str(source), str(target), (), UnpackLimits())
        await expect(Settled, self._pool.run(job))

    async def apply_diff(self, container_id: str, source: Path, owners: Owners | None) -> None:
        """Unpacks what `pack_diff` made into a container's writable directory, which is new.

        Raises LayerMalformed, StorageFull, ImageFault.
        """
        overlay = self._overlay(container_id)
        job = ApplyDiff(str(source), overlay.upper, overlay.lower, UnpackLimits(), owners)
        await expect(Settled, self._pool.run(job))

    def _overlay(self, container_id: str) -> Overlay:
        overlay = self._snapshots.find(container_id)
        if overlay is None:
            raise ImageFault(f"container {container_id} has no snapshot")
        return overlay
