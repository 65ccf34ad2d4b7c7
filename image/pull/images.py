"""Pulls and imports: a manifest and a config, their layers, and one transaction at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from image import directory
from image.archive import Found, opened
from image.catalog import Catalog, ImageRecord
from image.content import Content
from image.digest import Digest, chain_ids
from image.errors import (
    ArchiveMalformed,
    PullCancelled,
    ReferenceMalformed,
    RegistryBusy,
    RegistryUnavailable,
    StorageFull,
    UnsupportedImage,
    WorkerLost,
)
from image.manifest import (
    CONFIG_LIMIT,
    MANIFEST_LIMIT,
    Manifest,
    Platform,
    check_runnable,
    files,
    parse,
    parse_config,
)
from image.pull.flight import Flights
from image.pull.layers import Layers, Wanted
from image.pull.progress import Meter, PullProgress, Tracker
from image.reference import Reference
from image.registry.credentials import Credentials
from image.settings import ImageSettings
from image.worker.messages import Remote, Resolve, Resolved, Source
from image.worker.pool import Pool, expect, finished

# After these the next try goes on with the layers that were finished; after others they go.
_RESUMABLE: Final = (
    *(RegistryUnavailable, RegistryBusy, PullCancelled, WorkerLost),
    asyncio.CancelledError,
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What makes an image: its documents' digests, its layers, its names -> their targets."""

    id: Digest
    manifest: Digest
    layers: tuple[Wanted, ...]
    names: tuple[tuple[str, Digest], ...]


class Images:
    """Brings images into the catalog. Everything that waits for a registry is under way here."""

    def __init__(
        self,
        catalog: Catalog,
        content: Content,
        layers: Layers,
        pool: Pool,
        platform: Platform,
        settings: ImageSettings,
    ) -> None:
        self.under_way: list[Tracker] = []
        self.sweeping = asyncio.Lock()  # held while blobs are swept; no pull begins meanwhile
        self._catalog = catalog
        self._content = content
        self._layers = layers
        self._pool = pool
        self._platform = platform
        self._settings = settings
        self._flights: Flights[tuple[str, Credentials], str] = Flights()
        self._trackers: dict[tuple[str, Credentials], Tracker] = {}

    async def pull(
        self,
        reference: Reference,
        credentials: Credentials,
        progress: Callable[[PullProgress], None] | None,
    ) -> str:
        """The id of the image, now in the catalog.

        Always asks the registry, so that an image which is here already is only given to who may
        have it. The same pull by another caller is joined. Raises ImageFault.
        """
        key = (str(reference), credentials)
        tracker = self._trackers.get(key) if key in self._flights else None
        if tracker is None:
            tracker = self._trackers[key] = Tracker(str(reference))
        if progress is not None:
            tracker.callbacks.append(progress)
            progress(tracker.value())
        own = tracker
        try:
            return await self._flights.join(key, lambda: self._pull(reference, credentials, own))
        finally:
            if self._trackers.get(key) is own and key not in self._flights:
                del self._trackers[key]

    async def _pull(self, reference: Reference, credentials: Credentials, tracker: Tracker) -> str:
        async with self.sweeping:
            self.under_way.append(tracker)
        try:
            self._pool.warm(2)
            remote = Remote(str(reference), credentials, self._settings.registries)
            resolved = await expect(
                Resolved,
                self._pool.run(Resolve(remote, self._platform, str(self._content.root))),
            )
            data = self._content.read(resolved.manifest, MANIFEST_LIMIT)
            what = f"{reference.name}@{resolved.manifest}"
            manifest = parse(data, "", what)
            assert isinstance(manifest, Manifest)
            config = b""
            if not manifest.artifact:
                config = self._content.read(manifest.config.digest, CONFIG_LIMIT)
            remote = replace(remote, authorizations=resolved.authorizations, dead=resolved.dead)
            found = Found(resolved.manifest, data, config, (), (), verified=True)
            names = [(reference.at(resolved.target), resolved.target)]
            if reference.tagged:
                names.append((reference.tagged, resolved.target))
            plan = self._plan(reference.name, found, tuple(names), remote)
            return await self._assemble(plan, tracker)
        except BaseException:
            tracker.change("failed")
            raise
        finally:
            self.under_way.remove(tracker)

    async def load(self, path: Path, scratch: Path, name: str) -> tuple[str, ...]:
        """The ids of the images of an archive, now in the catalog. Raises ImageFault, OSError.

        name: what to call the image; "": what the archive calls it. scratch: for temporary files.
        """
        tracker = Tracker(str(path))
        async with self.sweeping:
            self.under_way.append(tracker)
        stack = ExitStack()
        try:
            archive = opened(path, scratch, self._platform)
            images = await asyncio.to_thread(stack.enter_context, archive)
            if name and len(images) > 1:
                text = f"{path}: it holds {len(images)} images, so it can't get the one name {name}"
                raise ArchiveMalformed(text)
            return tuple([await self._load(found, path, name, tracker) for found in images])
        except OSError as error:
            raise directory.full(error, scratch) or error from error
        finally:
            self.under_way.remove(tracker)
            stack.close()

    async def _load(self, found: Found, path: Path, name: str, tracker: Tracker) -> str:
        await asyncio.to_thread(self._keep, found, path)
        names = _names(found, name)
        plan = self._plan(str(path), found, names, None)
        return await self._assemble(plan, tracker)

    def _keep(self, found: Found, path: Path) -> None:
        for data in (found.manifest, found.config):
            self._content.put(data, Digest.of(data), str(path))

    def _plan(
        self,
        name: str,
        found: Found,
        names: tuple[tuple[str, Digest], ...],
        remote: Remote | None,
    ) -> _Plan:
        """Layers with everything that is known about them. Raises UnsupportedImage."""
        manifest = parse(found.manifest, "", name)
        assert isinstance(manifest, Manifest)
        if manifest.artifact:
            wanted_files = self._files(name, manifest, found, remote)
            return _Plan(found.manifest_digest, found.manifest_digest, wanted_files, names)
        config = parse_config(found.config, f"{name}, config {manifest.config.digest}")
        check_runnable(name, manifest, config, self._platform)
        layers: list[Wanted] = []
        for position, chain_id in enumerate(chain_ids(config.diff_ids)):
            descriptor = manifest.layers[position]
            wanted = Wanted(
                what=f"{name}, layer {position + 1} ({descriptor.digest})",
                diff_id=config.diff_ids[position],
                chain_id=chain_id,
                digest=descriptor.digest if found.verified else None,
                size=descriptor.size,
                source=self._source(found, position, descriptor.digest),
                remote=remote,
                content=str(self._content.root) if self._settings.keep_blobs else "",
                below=tuple(layers),
            )
            layers.append(wanted)
        return _Plan(manifest.config.digest, found.manifest_digest, tuple(layers), names)

    def _files(
        self, name: str, manifest: Manifest, found: Found, remote: Remote | None
    ) -> tuple[Wanted, ...]:
        """The files of an artifact, a layer each."""
        if remote is None:
            raise UnsupportedImage(f"{name}: it is an artifact, which can be pulled, not imported")
        wanted: list[Wanted] = []
        for title, descriptor in files(manifest, name):
            both = Digest.of(f"{descriptor.digest} {title}".encode())
            wanted.append(
                Wanted(
                    what=f"{name}, file {title!r} ({descriptor.digest})",
                    diff_id=both,
                    chain_id=both,
                    digest=descriptor.digest,
                    size=descriptor.size,
                    source=self._source(found, 0, descriptor.digest),
                    remote=remote,
                    content=str(self._content.root) if self._settings.keep_blobs else "",
                    below=(),
                    title=title,
                )
            )
        return tuple(wanted)

    def _source(self, found: Found, position: int, digest: Digest) -> Source | None:
        """A file: of the archive, or the blob that was kept when the layer was here before."""
        if found.layers:
            piece = found.layers[position]
            return Source(str(piece.path), piece.offset, piece.size)
        path = self._content.path(digest)
        return Source(str(path), 0, path.stat().st_size) if path.exists() else None

    async def _assemble(self, plan: _Plan, tracker: Tracker) -> str:
        """All layers, then the record of the image; the layers go if that can't be."""
        meters = {wanted: self._layers.meter(wanted) for wanted in plan.layers}
        tracker.watch(tuple(meters.values()))
        for meter in meters.values():
            meter.listeners.append(tracker.tell)
        try:
            with self._layers.lease() as lease:
                await self._fill(plan, meters, lease, tracker)
        finally:
            for meter in meters.values():
                meter.listeners.remove(tracker.tell)
        tracker.change("done")
        return str(plan.id)

    async def _fill(
        self, plan: _Plan, meters: Mapping[Wanted, Meter], lease: set[str], tracker: Tracker
    ) -> None:
        try:
            self._check_space(plan.layers)
            order = sorted(plan.layers, key=lambda wanted: -wanted.size)  # the longest first
            works = [self._layers.ensure(wanted, meters[wanted], lease) for wanted in order]
            records = dict(zip(order, await _all(works), strict=True))
            tracker.change("committing")
            ids = tuple(records[wanted].id for wanted in plan.layers)
            now = time.time_ns()
            record = ImageRecord(str(plan.id), plan.manifest, ids, now, plan.names)
            await finished(self._catalog.add_image(record))
        except BaseException as error:
            if not isinstance(error, _RESUMABLE):
                self._layers.abandon(plan.layers)
            raise

    def _check_space(self, layers: Sequence[Wanted]) -> None:
        """Refuse what can't fit, before anything is fetched: a layer is no smaller unpacked."""
        needed = sum(wanted.size for wanted in layers if self._layers.find(wanted) is None)
        free, kept = directory.free_bytes(self._content.root), self._settings.limits.reserve_bytes
        if needed > free - kept:
            reason = f"{needed} bytes to fetch, {free} bytes free, of which {kept} are left alone"
            raise StorageFull(str(self._content.root), reason)


async def _all(works: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """All results; at the first error the others are cancelled, and have cleaned up."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await finished(_settled(tasks))


async def _settled(tasks: Sequence[asyncio.Task[T]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _names(found: Found, name: str) -> tuple[tuple[str, Digest], ...]:
    """What an imported image is called: the given name, or the archive's own if it is a whole one.

    Raises ReferenceMalformed for a given name that is none.
    """
    texts = (name,) if name else found.names
    names: list[tuple[str, Digest]] = []
    for text in texts:
        try:
            reference = Reference.parse(text)
        except ReferenceMalformed:
            if name:
                raise
            continue  # an annotation may say anything
        if not name and "/" not in text and ":" not in text:
            continue  # a bare tag, as skopeo writes it: of which repository, nobody knows
        names.append((reference.at(found.manifest_digest), found.manifest_digest))
        if reference.tagged:
            names.append((reference.tagged, found.manifest_digest))
    return tuple(dict(names).items())
