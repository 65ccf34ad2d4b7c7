"""The facade of the package: all that others need of images.

    root/images.db  content/{blobs,ingest}  layers/<id>/  tmp/  containers/<id>/{layers,upper,work}

Reading (list, find, usage, snapshot) looks at memory and never waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from image import directory
from image.catalog import Catalog, ImageRecord
from image.checkpoints import Checkpoints
from image.content import Content
from image.digest import Digest
from image.errors import ImageFault, ImageNotFound
from image.garbage import Garbage
from image.manifest import (
    CONFIG_LIMIT,
    MANIFEST_LIMIT,
    ImageConfig,
    Platform,
    node_platform,
    parse_config,
)
from image.pull import Images, LayerProgress, Layers, PullProgress
from image.pull.layers import visible
from image.pull.trash import Trash
from image.reference import Reference
from image.registry.credentials import Credentials
from image.settings import ImageSettings, RegistrySettings, UnpackLimits
from image.snapshot import Overlay, Snapshots
from image.view import FilesystemUsage, Image, Usage, View, mountpoint
from image.worker.orphans import alone
from image.worker.pool import Pool, finished
from image.writable import Writable

__all__ = [
    "Credentials",
    "FilesystemUsage",
    "Image",
    "ImageSettings",
    "ImageStore",
    "LayerProgress",
    "Overlay",
    "PullProgress",
    "RegistrySettings",
    "UnpackLimits",
    "Usage",
]

_EMPTY: Final = "0"  # the layer of images that have none: overlayfs wants one at least
_LOCK: Final = "workers.lock"
_log: Final = logging.getLogger(__name__)


class ImageStore:
    """Images, their layers and the containers' snapshots under one root."""

    def __init__(self, root: Path, settings: ImageSettings, catalog: Catalog) -> None:
        self._root = root
        self._settings = settings
        self._catalog = catalog
        self._content = Content(root / "content")
        self._trash = Trash(root / "tmp")
        self._snapshots = Snapshots(root / "layers", root / "containers")
        self._view = View(catalog, settings.pinned)
        self._pool = Pool(
            settings.parallel_layers or min(max(os.cpu_count() or 1, 2), 4),
            root / "tmp" / _LOCK,
            patience=settings.progress_timeout,
            idle_seconds=settings.idle_seconds,
        )
        self._layers = Layers(root / "layers", catalog, self._pool, self._trash, settings.limits)
        self.writable = Writable(mountpoint(root, "containers"), self._snapshots, self._pool)
        self._images = Images(
            catalog, self._content, self._layers, self._pool, node_platform(), settings
        )
        self.checkpoints = Checkpoints(catalog, self._content, self._snapshots, self._pool)
        self._garbage = Garbage(
            root=root,
            settings=settings,
            catalog=catalog,
            content=self._content,
            snapshots=self._snapshots,
            layers=self._layers,
            images=self._images,
            trash=self._trash,
        )
        self._closed = False

    @classmethod
    async def open(cls, root: Path, settings: ImageSettings) -> ImageStore:
        """The store under `root`, made if it is new, cleaned of what a kill left.

        Raises ImageFault when workers of another daemon are still at work there, or the catalog
        is damaged or newer; OSError.
        """
        await asyncio.to_thread(_clean, root)
        catalog = await Catalog.open(root / "images.db")
        store = cls(root, settings, catalog)
        try:
            await store._recover()
        except BaseException:
            await store.close()
            raise
        return store

    async def _recover(self) -> None:
        """Bring directories and records together: what has no record goes, and the other way."""
        for path in await asyncio.to_thread(self._snapshots.load):
            self._garbage.throw_away(path)
        catalog = self._catalog
        present = set(await asyncio.to_thread(os.listdir, self._root / "layers"))
        for name in present - catalog.layers.keys() - {_EMPTY}:
            self._garbage.throw_away(self._root / "layers" / name)
        lost = catalog.layers.keys() - present
        for record in list(catalog.images.values()):
            config = None if lost & set(record.layers) else await self._read(record)
            if config is None:
                _log.warning("image %s is incomplete on disk and is dropped", record.id)
                await catalog.remove_image(record.id)
            else:
                self._view.show(record, config)
        await catalog.remove_layers(lost)
        await self._garbage.tidy()

    async def _read(self, record: ImageRecord) -> ImageConfig | None:
        """The config of an image, if its documents are there and are what they should be."""

        def read() -> ImageConfig:
            self._content.read(record.manifest, MANIFEST_LIMIT)
            if record.id == str(record.manifest):
                return ImageConfig(Platform(), ())  # an artifact's says nothing of processes
            data = self._content.read(Digest.parse(record.id), CONFIG_LIMIT)
            return parse_config(data, f"image {record.id}")

        try:
            return await asyncio.to_thread(read)
        except (OSError, ValueError, ImageFault) as error:
            _log.warning("image %s: %s", record.id, error)
            return None

    # --- images -----------------------------------------------------------------------------------

    async def pull(
        self,
        reference: str,
        credentials: Credentials | None = None,
        *,
        progress: Callable[[PullProgress], None] | None = None,
    ) -> Image:
        """Bring an image here, or see that it is; always asks the registry.

        progress: called in the event loop, about ten times a second for each layer.
        Raises ReferenceMalformed, the faults of registries, DigestMismatch, UnsupportedImage,
        LayerMalformed, StorageFull, PullCancelled, WorkerLost.
        """
        parsed = Reference.parse(reference)
        try:
            image_id = await self._images.pull(parsed, credentials or Credentials(), progress)
            return await self._shown(image_id)
        except OSError as error:
            raise directory.full(error, self._root) or error from error
        finally:
            await finished(self._garbage.tidy())

    async def import_archive(self, path: Path, *, name: str | None = None) -> tuple[Image, ...]:
        """The images of an OCI layout (directory or archive) or of what `docker save` wrote.

        name: what to call the image, instead of what the archive calls it.
        Raises ArchiveMalformed, ReferenceMalformed and what `pull` raises of layers; OSError.
        """
        if name:
            Reference.parse(name)
        try:
            ids = await self._images.load(path, self._root / "tmp", name or "")
            return tuple([await self._shown(image_id) for image_id in ids])
        finally:
            await finished(self._garbage.tidy())

    async def _shown(self, image_id: str) -> Image:
        """An image that the catalog has got; others may have lost a name to it."""
        record = self._catalog.images.get(image_id)
        if record is None:
            raise ImageNotFound(image_id)  # removed again in this very moment
        if image_id not in self._view.images:
            config = await self._read(record)
            if config is None:
                raise ImageFault(f"image {image_id} can't be read back from {self._root}")
            self._view.show(record, config)
        self._view.refresh()
        return self._view.images[image_id]

    def list(self) -> tuple[Image, ...]:
        """All images."""
        return tuple(self._view.images.values())

    def find(self, text: str) -> Image | None:
        """The image which a tag, digest, name, id or unique beginning of an id means."""
        return self._view.find(text)

    async def read_config(self, image_id: str) -> bytes:
        """An image's config document, or an artifact's manifest. Raises ImageNotFound."""
        try:
            digest = Digest.parse(image_id)
            return await asyncio.to_thread(self._content.read, digest, CONFIG_LIMIT)
        except (OSError, ValueError) as error:
            raise ImageNotFound(image_id) from error

    async def remove(self, text: str) -> None:
        """Forget the image that `text` means, with all its names; unknown: nothing to do.

        Layers that containers use stay until those have gone.
        """
        image = self.find(text)
        if image is None:
            return
        del self._view.images[image.id]
        try:
            await finished(self._catalog.remove_image(image.id))
        except ImageFault:
            self._view.images[image.id] = image
            raise
        await finished(self._garbage.tidy())

    def pulls(self) -> tuple[PullProgress, ...]:
        """Those under way, imports too."""
        return tuple(tracker.value() for tracker in self._images.under_way)

    # --- snapshots --------------------------------------------------------------------------------

    def prepare(self, image_id: str, container_id: str, owner: tuple[int, int] = (0, 0)) -> Overlay:
        """A container's own writable layer over an image; the same again for the same container.

        owner: uid and gid of the container's root. Few system calls. ImageNotFound, StorageFull.
        """
        ids = self._layers_of(image_id)
        known = (self._catalog.layers.get(item) for item in ids)  # the empty layer is not
        roots = (layer.root for layer in known if layer is not None)
        root = next((attributes for attributes in roots if attributes is not None), None)
        overlay = self._snapshots.prepare(container_id, ids, root, owner)
        self.writable.begin(container_id, overlay.upper)
        return overlay

    def hold(self, image_id: str, volume: str) -> None:
        """Keeps an image's layers for a volume, named <container id>.<number>, until the container
        is discarded; `snapshot` answers them. Raises ImageNotFound, StorageFull."""
        self._snapshots.prepare(volume, self._layers_of(image_id), None)

    def _layers_of(self, image_id: str) -> Sequence[str]:
        record = self._catalog.images.get(image_id)
        if record is None:
            raise ImageNotFound(image_id)
        return visible(record.layers, self._catalog) or [_EMPTY]

    def snapshot(self, container_id: str) -> Overlay | None:
        """What `prepare` answered for this container."""
        return self._snapshots.find(container_id)

    async def discard(self, container_id: str) -> None:
        """Remove a container's writable layer; unknown: nothing to do.

        Its name is free at once; its files go in the background.
        """
        self.writable.forget(container_id)
        if [name for name in self._snapshots.of(container_id) if self._drop(name)]:
            await finished(self._garbage.tidy(documents=False))

    def _drop(self, name: str) -> bool:
        """Forget a snapshot; whether there was one."""
        path = self._trash.name()
        if not self._snapshots.drop(name, path):
            return False
        self._trash.remove_later(path)
        return True

    async def collect(self, live_containers: Collection[str]) -> None:
        """Remove snapshots of containers that are not among `live_containers`, and all garbage."""
        live = set(live_containers)
        for name in list(self._snapshots.used):
            if name not in live and name.partition(".")[0] not in live:
                self._drop(name)
        await finished(self._garbage.tidy())

    # --- all of it --------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """What is on disk, as counted when it was written."""
        layers = self._catalog.layers.values()
        (size, count), (written, inodes) = self._garbage.blobs, self.writable.total()
        containers = len(self._snapshots.used)
        return Usage(
            timestamp=time.time_ns(),
            images=FilesystemUsage(
                mountpoint(self._root, "layers"),
                sum(layer.size for layer in layers) + size,
                sum(layer.inodes for layer in layers) + count,
            ),
            containers=FilesystemUsage(
                self.writable.mountpoint,
                written + 2 * 4096 * containers,
                inodes + 3 * containers,
            ),
        )

    async def close(self) -> None:
        """End the workers and wait for removals; twice is fine.

        Pulls are their callers' to cancel before.
        """
        if self._closed:
            return
        self._closed = True
        self._garbage.close()
        await self._pool.close()
        await self._trash.close()
        await self._catalog.close()


def _clean(root: Path) -> None:
    """Make the directories; wait for orphaned workers to be gone, and remove what they left."""
    for name in ("content", "layers", "tmp", "containers"):
        (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(root / "tmp" / _LOCK):
        for path in (root / "tmp").iterdir():
            if path.name != _LOCK:
                directory.remove_tree(path)
        Content(root / "content").create()
    (root / "layers" / _EMPTY).mkdir(mode=0o755, exist_ok=True)
