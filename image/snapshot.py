"""A container's root file system: read-only layers and its own writable directory. Answers what to
mount, mounts nothing.

    containers/<container id>/layers   layer ids, topmost first, a line each: the record
                              config   the image's config, linked from the blobs: an image may be
                                       removed before its container is started
                              upper/   what the container writes
                              work/    overlayfs' own

The record lies with what it describes, written before upper and work exist; there is no row in a
database, because CreateContainer should not wait for one. After a power cut it may be empty: the
container is dead then, and its directory is removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image import directory
from image.errors import ImageFault, ImageNotFound
from image.manifest import CONFIG_LIMIT, ImageConfig, parse_config

_LAYER_ID: Final = re.compile(r"[0-9a-z]{1,13}")
_CONTAINER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_CONFIG: Final = "config"
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Overlay:
    """What to mount. lower: absolute paths, topmost first."""

    lower: tuple[str, ...]
    upper: str
    work: str


def layer_id(number: int) -> str:
    """Base 36: the names of layers stand in every mount table, so they are short."""
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text or "0"


class Snapshots:
    """The directories under `containers`, each an overlay of directories under `layers`."""

    def __init__(self, layers: Path, containers: Path) -> None:
        self.used: dict[str, tuple[str, ...]] = {}  # container id -> layer ids, topmost first
        self.layers = layers
        self._containers = containers

    def load(self) -> list[Path]:
        """Read the records; the directories that have none: to be removed."""
        broken = []
        for path in self._containers.iterdir():
            ids = _record(path)
            if ids is None or not _CONTAINER_ID.fullmatch(path.name):
                broken.append(path)
            else:
                self.used[path.name] = ids
        return broken

    def prepare(
        self,
        container_id: str,
        ids: Sequence[str],
        root: tuple[int, int, int] | None,
        owner: tuple[int, int] = (0, 0),
        config: Path | None = None,
    ) -> Overlay:
        """A writable directory over these layers (topmost first); the same again if it exists.

        config: the image's config, which is kept as long.

        root: mode, uid and gid of the root directory, which overlayfs takes from `upper`; owner:
        uid and gid on this node of the container's root, from which on its users are counted.
        Raises StorageFull.
        """
        if not _CONTAINER_ID.fullmatch(container_id):
            raise ValueError(f"{container_id!r} can't be the name of a directory")
        if container_id in self.used:
            if self.used[container_id] != tuple(ids):
                raise ImageFault(f"container {container_id} has a snapshot of another image")
            return self._overlay(container_id)
        path = self._containers / container_id
        try:
            mode, uid, gid = root or (0o755, 0, 0)
            self._make(path, ids, (mode, uid + owner[0], gid + owner[1]))
            if config is not None:
                (path / _CONFIG).hardlink_to(config)
        except OSError as error:
            directory.remove_tree(path)
            raise directory.full(error, self._containers) or error from error
        self.used[container_id] = tuple(ids)
        return self._overlay(container_id)

    def _make(self, path: Path, ids: Sequence[str], root: tuple[int, int, int]) -> None:
        path.mkdir(mode=0o700)
        (path / "layers").write_text("".join(f"{item}\n" for item in ids), "ascii")
        (path / "work").mkdir(mode=0o700)
        upper = path / "upper"
        upper.mkdir(mode=0o755)
        mode, uid, gid = root
        if (uid, gid) != (0, 0):
            os.chown(upper, uid, gid)
        os.chmod(upper, mode)  # mkdir heeds the umask

    def find(self, container_id: str) -> Overlay | None:
        """What was prepared for this container."""
        return self._overlay(container_id) if container_id in self.used else None

    def config(self, image_id: str, container_id: str) -> ImageConfig:
        """The config that was kept for a container. Raises ImageNotFound, UnsupportedImage."""
        path = self._containers / container_id / _CONFIG
        try:
            with path.open("rb") as file:
                return parse_config(file.read(CONFIG_LIMIT), str(path))
        except FileNotFoundError:
            raise ImageNotFound(image_id) from None

    def _overlay(self, container_id: str) -> Overlay:
        path = self._containers / container_id
        lower = tuple(f"{self.layers}/{item}" for item in self.used[container_id])
        return Overlay(lower, f"{path}/upper", f"{path}/work")

    def of(self, container_id: str) -> list[str]:
        """The names of a container's snapshots: its own, and those of its volumes (ID.NUMBER)."""
        found = [container_id] if container_id in self.used else []
        number = 0
        while f"{container_id}.{number}" in self.used:
            found.append(f"{container_id}.{number}")
            number += 1
        return found

    def drop(self, container_id: str, trash: Path) -> bool:
        """Forget a snapshot and move its directory to `trash`; whether there was one."""
        if self.used.pop(container_id, None) is None:
            return False
        (self._containers / container_id).rename(trash)
        return True


def _record(path: Path) -> tuple[str, ...] | None:
    """The layers of a container's directory, or None if it was never finished."""
    try:
        ids = (path / "layers").read_text("ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    whole = ids and (path / "upper").is_dir() and (path / "work").is_dir()
    return tuple(ids) if whole and all(_LAYER_ID.fullmatch(item) for item in ids) else None
