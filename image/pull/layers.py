"""Layers into the store, each one once.

    tmp/<n>  --unpacked, synced-->  rename to layers/<id>  --fsync of layers/-->  row in the catalog

A layer is found by its diff id; one that had to be settled upon others, by its chain id.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from image import directory
from image.catalog import Catalog, LayerRecord
from image.digest import Digest
from image.errors import ImageFault
from image.pull.flight import Flights
from image.pull.progress import Meter
from image.pull.trash import Trash
from image.settings import UnpackLimits
from image.snapshot import layer_id
from image.unpack import Result
from image.worker.messages import Progress, Remote, Settle, Settled, Source, Unpack, Unpacked
from image.worker.pool import Pool, expect, finished


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """A layer of an image. what: its name in messages; digest: of its blob, None: not known.

    below: the layers under it, from the bottom up; source, remote, title: see `messages.Unpack`.
    """

    what: str
    diff_id: Digest
    chain_id: Digest
    digest: Digest | None
    size: int
    source: Source | None
    remote: Remote | None
    content: str
    below: tuple[Wanted, ...]
    title: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """How the catalog may know it."""
        if self.title:
            return (f"file:{self.diff_id}",)
        return f"diff:{self.diff_id}", f"chain:{self.chain_id}"


class Layers:
    """The directories under `root`, which the catalog lists."""

    def __init__(
        self, root: Path, catalog: Catalog, pool: Pool, trash: Trash, limits: UnpackLimits
    ) -> None:
        self._leases: dict[int, set[str]] = {}
        self._root = root
        self._catalog = catalog
        self._pool = pool
        self._trash = trash
        self._limits = limits
        self._flights: Flights[Digest, LayerRecord] = Flights()
        self._meters: dict[Digest, Meter] = {}
        self._commit_lock = asyncio.Lock()
        self._last = max((int(known, 36) for known in catalog.layers), default=0)

    @contextmanager
    def lease(self) -> Iterator[set[str]]:
        """A set of layer ids which are not garbage as long as the context lasts."""
        ids: set[str] = set()
        self._leases[id(ids)] = ids
        try:
            yield ids
        finally:
            del self._leases[id(ids)]

    @property
    def leased(self) -> list[set[str]]:
        """What pulls under way count on."""
        return list(self._leases.values())

    def find(self, wanted: Wanted) -> LayerRecord | None:
        """The layer, if it is in the store."""
        for key in wanted.keys:
            record = self._catalog.by_key.get(key)
            if record is not None:
                return record
        return None

    def meter(self, wanted: Wanted) -> Meter:
        """How far this layer is; the same one for all who want it."""
        meter = self._meters.get(wanted.chain_id)
        if meter is None:
            meter = Meter(wanted.digest or wanted.diff_id, wanted.size)
            if self.find(wanted) is not None:
                meter.change("present")
        return meter

    async def ensure(self, wanted: Wanted, meter: Meter, lease: set[str]) -> LayerRecord:
        """The layer, made if need be; `lease` has it then.

        Raises what the work raises; but if it was another's work that we joined (with another's
        credentials, say), we try by ourselves.
        """
        while True:
            record = self.find(wanted)
            if record is not None:
                lease.add(record.id)
                if meter.state != "done":
                    meter.change("present")
                return record
            joined = wanted.chain_id in self._flights
            self._meters.setdefault(wanted.chain_id, meter)
            try:
                record = await self._flights.join(wanted.chain_id, lambda: self._make(wanted))
            except ImageFault:
                if joined:
                    continue
                raise
            finally:
                if wanted.chain_id not in self._flights:
                    self._meters.pop(wanted.chain_id, None)
            lease.add(record.id)

    def abandon(self, layers: Iterable[Wanted]) -> None:
        """The pull of these failed for good: what it finished need not wait for its next try."""
        found = (self.find(wanted) for wanted in layers)
        self._catalog.abandon(record.id for record in found if record is not None)

    async def _make(self, wanted: Wanted) -> LayerRecord:
        meter = self._meters[wanted.chain_id]
        path = self._trash.name()

        def report(progress: Progress) -> None:
            meter.state = "pulling"
            meter.fetched, meter.entries = progress.fetched, progress.entries
            meter.unpacked = progress.written
            meter.tell()

        job = Unpack(
            wanted.what,
            os.fspath(path),
            wanted.diff_id,
            wanted.digest,
            wanted.size,
            wanted.source,
            wanted.remote,
            wanted.content,
            self._limits,
            wanted.title,
        )
        try:
            result = (await expect(Unpacked, self._pool.run(job, report))).result
            key = wanted.keys[0]
            if result.implicit or result.links:
                meter.change("settling")
                await self._settle(wanted, path, result)
                key = wanted.keys[1]
            record = await finished(self._commit(path, key, result))
        finally:
            await finished(self._trash.remove(path))
        meter.change("done")
        return record

    async def _settle(self, wanted: Wanted, path: Path, result: Result) -> None:
        """Finish a layer with those below it, once they are there."""
        with self.lease() as lease:
            works = (self.ensure(item, self.meter(item), lease) for item in wanted.below)
            below: Sequence[LayerRecord] = await asyncio.gather(*works)
            ids = visible([record.id for record in below], self._catalog)
            lowers = tuple(os.fspath(self._root / item) for item in ids)
            job = Settle(os.fspath(path), result, lowers, self._limits.depth)
            await expect(Settled, self._pool.run(job))

    async def _commit(self, path: Path, key: str, result: Result) -> LayerRecord:
        """Publish a finished directory. Another may have been quicker with the same layer."""
        async with self._commit_lock:
            known = self._catalog.by_key.get(key)
            if known is not None:
                return known
            self._last += 1
            root = result.root
            record = LayerRecord(
                id=layer_id(self._last),
                key=key,
                size=result.size,
                inodes=result.inodes,
                opaque=result.opaque,
                root=(root.mode, root.uid, root.gid) if root else None,
                created_at=time.time_ns(),
                pending=True,
            )
            target = self._root / record.id
            path.rename(target)  # noqa: ASYNC240 - a name; it does not wait
            try:
                await asyncio.to_thread(directory.fsync, self._root)
                await self._catalog.add_layer(record)
            except BaseException:
                target.rename(path)
                raise
            return record


def visible(ids: Sequence[str], catalog: Catalog) -> list[str]:
    """What to stack of these layers (bottom up), topmost first.

    A layer that occurs twice counts where it is topmost (overlayfs refuses it twice, and what is
    hidden below its upper place adds nothing); nothing shows through an opaque one.
    """
    stack: list[str] = []
    for item in reversed(ids):
        if item not in stack:
            stack.append(item)
        if catalog.layers[item].opaque:
            break
    return stack
