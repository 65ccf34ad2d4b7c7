"""What plugins need of the daemon: the RPC layer gives it."""

from __future__ import annotations

from typing import Protocol

from cri.nri.api import nri_pb2 as nri


class Host(Protocol):
    """Used from the loop's thread."""

    def pods(self) -> list[nri.PodSandbox]:
        """Those that are there."""

    def containers(self) -> list[nri.Container]:
        """Those that are created or running."""

    async def update(self, plugin: str, update: nri.ContainerUpdate) -> None:
        """Give a container other resources. Raises CriFault, RuntimeFault, OSError."""

    async def evict(self, plugin: str, eviction: nri.ContainerEviction) -> None:
        """End a container. Raises CriFault, RuntimeFault, OSError, TimeoutError."""
