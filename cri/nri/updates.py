"""What plugins want changed of containers that exist, merged. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cri.errors import AdjustmentImpossible, PluginsDisagree
from cri.nri import resources
from cri.nri.api import nri_pb2 as nri
from cri.nri.owners import Owners


class Updates:
    """Collects plugin after plugin. creating: the id of a container that can't be updated yet."""

    def __init__(self, owners: Owners, creating: str = "") -> None:
        self._owners = owners
        self._creating = creating
        self._wanted: dict[str, nri.ContainerUpdate] = {}
        self._plugins: dict[str, list[str]] = {}

    def add(self, plugin: str, updates: Iterable[nri.ContainerUpdate]) -> None:
        """Raises AdjustmentImpossible; PluginsDisagree, but for updates whose failure may be
        ignored, which are then left out."""
        for update in updates:
            if update.container_id == self._creating:
                text = "the container is being created: adjust it instead"
                raise AdjustmentImpossible(plugin, f"update of {update.container_id}", text)
            try:
                self._check(plugin, update)
            except PluginsDisagree:
                if update.ignore_failure:
                    continue
                raise
            self._merge(plugin, update)

    def give(self, container_id: str, to: nri.LinuxResources) -> None:
        """Put what all of them together want of one container over what is there."""
        if container_id in self._wanted:
            resources.merge(to, self._wanted[container_id].linux.resources)

    def others(self, but: str = "") -> list[tuple[str, nri.ContainerUpdate]]:
        """Whose wishes they are, and an update for each container."""
        return [
            (", ".join(self._plugins[container_id]), update)
            for container_id, update in self._wanted.items()
            if container_id != but
        ]

    def _check(self, plugin: str, update: nri.ContainerUpdate) -> None:
        trial = self._owners.copy()
        for field, entry, _ in resources.given(update.linux.resources):
            trial.claim(update.container_id, field, plugin, entry)

    def _merge(self, plugin: str, update: nri.ContainerUpdate) -> None:
        container_id, wanted = update.container_id, update.linux.resources
        for field, entry, _ in resources.given(wanted):
            self._owners.claim(container_id, field, plugin, entry)
        first = container_id not in self._wanted
        merged = self._wanted.setdefault(container_id, nri.ContainerUpdate())
        merged.container_id = container_id
        merged.ignore_failure = update.ignore_failure and (first or merged.ignore_failure)
        resources.merge(merged.linux.resources, wanted)
        self._plugins.setdefault(container_id, []).append(plugin)
