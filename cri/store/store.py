"""The store: what the daemon remembers of sandboxes and containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.store.container import Containers
from cri.store.database import Database
from cri.store.sandbox import Sandboxes

if TYPE_CHECKING:
    from pathlib import Path


class Store:
    """Sandboxes and containers, in memory and in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sandboxes = Sandboxes(database)
        self.containers = Containers(database)

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open or make the store. Raises StateUnreadable, which says what to do."""
        return cls(Database.open(path))

    def close(self) -> None:
        """Write everything into one file, and close it."""
        self._database.close()
