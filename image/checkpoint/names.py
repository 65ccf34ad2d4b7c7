"""The names of a checkpoint's parts, for all who speak of them."""

from __future__ import annotations

from typing import Final

CONFIG: Final = "config.dump"
DIFF: Final = "rootfs-diff.tar"
IMAGES: Final = "checkpoint"
SHM: Final = "devshm-checkpoint.tar"
