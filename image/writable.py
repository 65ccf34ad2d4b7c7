"""Sizes of containers' writable layers: kept in memory, counted anew on request.

Questions are answered from memory. Counting is a walk through each writable directory, in a worker
of low priority. A file system with project quotas could tell at once; we use none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from image.snapshot import Snapshots
from image.worker.messages import Measure, Measured, Occupancy
from image.worker.pool import Pool, expect

__all__ = ["FileSystem", "Occupancy", "Writable"]

_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Where writable directories lie: its size, and its device."""

    bytes: int
    inodes: int
    inodes_free: int
    major: int
    minor: int


class Writable:
    """The numbers by container id. mountpoint: a directory on the file system that holds them."""

    def __init__(self, mountpoint: str, snapshots: Snapshots, pool: Pool) -> None:
        self.mountpoint = mountpoint
        self._snapshots = snapshots
        self._pool = pool
        self._kept: dict[str, Occupancy] = {}

    def find(self, container_id: str) -> Occupancy | None:
        """What was counted last; None: nothing yet, or no such container."""
        return self._kept.get(container_id)

    def begin(self, container_id: str, upper: str) -> None:
        """A directory that has just been made holds nothing."""
        if container_id not in self._kept:
            self._kept[container_id] = Occupancy(
                bytes=os.stat(upper).st_blocks * _BLOCK,
                inodes=1,
                whole=True,
                taken_at=time.time_ns(),
                seconds=0.0,
            )

    def forget(self, container_id: str) -> None:
        self._kept.pop(container_id, None)

    async def take(self, container_ids: Collection[str]) -> None:
        """Count anew. Raises ImageFault when the worker fails; the numbers stay as they were."""
        uppers = {
            container_id: overlay.upper
            for container_id in container_ids
            if (overlay := self._snapshots.find(container_id)) is not None
        }
        if not uppers:
            return
        job = Measure(tuple(uppers.values()))
        measured = await expect(Measured, self._pool.run_apart(job))
        for container_id, found in zip(uppers, measured.directories, strict=True):
            if found is not None and container_id in self._snapshots.used:  # it may have gone
                self._keep(container_id, found)

    def _keep(self, container_id: str, found: Occupancy) -> None:
        """Of a walk that left something out, what was known before counts if that is more."""
        before = self._kept.get(container_id)
        if not found.whole and before is not None:
            most = max(found.bytes, before.bytes), max(found.inodes, before.inodes)
            found = replace(found, bytes=most[0], inodes=most[1])
        self._kept[container_id] = found

    def total(self) -> tuple[int, int]:
        """Bytes and inodes of all containers."""
        kept = self._kept.values()
        return sum(one.bytes for one in kept), sum(one.inodes for one in kept)

    def file_system(self) -> FileSystem:
        """Of the directory that holds them all."""
        status, device = os.statvfs(self.mountpoint), os.stat(self.mountpoint).st_dev
        return FileSystem(
            bytes=status.f_blocks * status.f_frsize,
            inodes=status.f_files,
            inodes_free=status.f_ffree,
            major=os.major(device),
            minor=os.minor(device),
        )
