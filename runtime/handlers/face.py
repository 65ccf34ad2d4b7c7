"""What a runtime is to the daemon: it turns a container to be into what a monitor can start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from runtime.init.cgroups import CgroupLayout
from runtime.prepare import Place, Prepared
from runtime.spec import Namespace, Rootfs, Spec


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


@dataclass(frozen=True, slots=True)
class SandboxWork:
    """A pod's sandbox to make ready. directory: its monitor's; namespaces: those of the pod's own;
    config: the pod as CRI tells it (PodSandboxConfig, serialised); annotations: of its OCI spec."""

    directory: Path
    cgroup_parent: str
    namespaces: tuple[Namespace, ...]
    config: bytes
    annotations: Mapping[str, str]


@runtime_checkable
class MakesSandboxes(Protocol):
    """A handler whose program makes the sandboxes of pods, too."""

    @property
    def name(self) -> str: ...

    def prepare_sandbox(self, work: SandboxWork) -> object:
        """The plan that the monitor needs; blocks. Raises OSError."""


class Handler(Protocol):
    """name: goes with Start; empty for the embedded runtime, which needs no other code; shim: it is
    one of containerd's."""

    @property
    def name(self) -> str: ...

    @property
    def shim(self) -> bool: ...

    def prepare(self, ground: Ground, work: Work) -> Prepared:
        """Makes what the monitor needs; blocks. Raises InvalidSpec, OSError, and leaves nothing."""
