"""Every directory and file name that the daemon owns, as functions of root, state and id.

root (/var/lib/podwright): survives a reboot    state (/run/podwright): describes this boot
  lock           held by the daemon               podwright.sock   CRI (unless configured)
  state.db       sandboxes, containers            spawner.sock
  images.db      image's own                      lock             held by the daemon
  content/       blobs                            boot-id          the boot that state is of
  layers/        unpacked layers                  monitors/<sandbox id>/
  containers/    writable layers                  net/, ipam/      network's own
  skeleton/      every container's lowest layer
  checkpoints/   what is being written, or waits to be started
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """The two directories of one daemon. Two daemons with different ones never meet."""

    root: Path
    state: Path

    @property
    def locks(self) -> tuple[Path, Path]:
        """Locked while a daemon runs: neither directory may have two."""
        return self.root / "lock", self.state / "lock"

    @property
    def database(self) -> Path:
        """Sandboxes and containers (SQLite)."""
        return self.root / "state.db"

    @property
    def skeleton(self) -> Path:
        """The lowest layer of every container: see runtime.init.skeleton."""
        return self.root / "skeleton"

    @property
    def checkpoints(self) -> Path:
        """Directories of checkpoints: of containers, sandboxes, and of what is being written."""
        return self.root / "checkpoints"

    def checkpoint(self, owner_id: str) -> Path:
        """The checkpoint from which a container is going to be started; or a sandbox's part."""
        return self.checkpoints / owner_id

    @property
    def boot_id(self) -> Path:
        """The boot which the files under `state` describe."""
        return self.state / "boot-id"

    def monitor(self, sandbox_id: str) -> Path:
        """What a sandbox's monitor owns: its socket, exits/; and the pod's files/: hosts …"""
        return self.state / "monitors" / sandbox_id
