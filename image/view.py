"""Images as other packages see them, in memory: listing and looking up never wait."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from image.catalog import Catalog, ImageRecord
from image.errors import ReferenceMalformed
from image.manifest import ImageConfig
from image.reference import Reference

_IDENTIFIER: Final = re.compile(r"(?:sha256:)?([0-9a-f]{3,64})")


@dataclass(frozen=True, slots=True)
class Image:
    """An image as kubelet sees it.

    id: digest of its config, of an artifact the manifest's; names: repo tags; digests: repo
    digests; size: bytes on disk, unpacked, at least 1 (what removing it can free); manifest: its
    digest; pulled_at: ns since 1970.
    """

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    size: int
    config: ImageConfig
    pinned: bool
    manifest: str
    pulled_at: int

    @property
    def artifact(self) -> bool:
        """It has files, to be mounted as a volume, but is nothing that could run."""
        return self.id == self.manifest


@dataclass(frozen=True, slots=True)
class FilesystemUsage:
    """mountpoint: a directory on the file system; bytes and inodes: what is ours there."""

    mountpoint: str
    bytes: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """timestamp: ns since 1970. containers: what they had written when it was counted last, see
    `image.writable`.
    """

    timestamp: int
    images: FilesystemUsage
    containers: FilesystemUsage


def mountpoint(root: Path, name: str) -> str:
    """Where root/<name> is counted: root, or root/<name> if a disk of its own is mounted there.

    Two different answers make kubelet take layers and writable files for split file systems, whose
    limits it keeps apart (KEP-4191): they may differ only if the disks do.
    """
    own = root / name
    return str(root if own.stat().st_dev == root.stat().st_dev else own)


class View:
    """The images of a catalog whose documents are on disk. pinned: patterns of names."""

    def __init__(self, catalog: Catalog, pinned: tuple[str, ...]) -> None:
        self.images: dict[str, Image] = {}
        self._catalog = catalog
        self._pinned = pinned

    def show(self, record: ImageRecord, config: ImageConfig) -> Image:
        """Show an image, new or changed."""
        names = [name for name, _ in record.names]
        tags = tuple(name for name in names if "@" not in name)
        layers = {self._catalog.layers[item] for item in record.layers}
        image = Image(
            id=record.id,
            names=tags,
            digests=tuple(name for name in names if "@" in name),
            size=max(sum(layer.size for layer in layers), 1),
            config=config,
            pinned=any(fnmatchcase(tag, text) for tag in tags for text in self._pinned),
            manifest=str(record.manifest),
            pulled_at=record.pulled_at,
        )
        self.images[record.id] = image
        return image

    def refresh(self) -> None:
        """Names moved from one image to another."""
        for image in tuple(self.images.values()):
            self.show(self._catalog.images[image.id], image.config)

    def find(self, text: str) -> Image | None:
        """The image which a tag, digest, name, id or unique beginning of an id means."""
        image = self.images.get(text) or self.images.get(f"sha256:{text}")
        return image or self._named(text) or self._begins(text)

    def _named(self, text: str) -> Image | None:
        try:
            reference = Reference.parse(text)
        except ReferenceMalformed:
            return None
        name = reference.at(reference.digest) if reference.digest else reference.tagged
        return self.images.get(self._catalog.by_name.get(name, ""))

    def _begins(self, text: str) -> Image | None:
        match = _IDENTIFIER.fullmatch(text)
        if match is None:
            return None
        prefix = f"sha256:{match[1]}"
        found = [image for image in self.images.values() if image.id.startswith(prefix)]
        return found[0] if len(found) == 1 else None
