"""What a runtime is to the daemon: it turns a container to be into what a monitor can start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.init.cgroups import CgroupLayout
from runtime.prepare import Place, Prepared
from runtime.spec import Rootfs, Spec


@dataclass(frozen=True, slots=True)
class Ground:
    """Where containers are made. state: the runtime's directory; cgroups: of the node, as a
    container is to see them."""

    state: Path
    place: Place
    cgroups: CgroupLayout


@dataclass(frozen=True, slots=True)
class Work:
    """A container to make ready. directory: its monitor's."""

    container_id: str
    directory: Path
    spec: Spec
    rootfs: Rootfs


class Handler(Protocol):
    """name: goes with Start; empty for the embedded runtime, which needs no other code; shim: it is
    one of containerd's."""

    @property
    def name(self) -> str: ...

    @property
    def shim(self) -> bool: ...

    def prepare(self, ground: Ground, work: Work) -> Prepared:
        """Makes what the monitor needs; blocks. Raises InvalidSpec, OSError, and leaves nothing."""
