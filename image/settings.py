"""What can be set about images, registries and the work of a pull."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How registries are reached.

    hosts_dir: containerd's layout, `<host>/hosts.toml` and `_default/hosts.toml`; "": none.
    insecure_hosts: hosts ("host" or "host:port") spoken to in plain HTTP, as loopback always is.
    attempts: tries of one request at the last endpoint; mirrors before it get two.
    retry_delay: seconds before the second try; doubles each time, with jitter.
    retry_ceiling: longest wait in seconds; a registry asking for more gets RegistryBusy at once.
    connect_timeout, read_timeout: seconds without a byte.
    """

    hosts_dir: str = "/etc/containerd/certs.d"
    insecure_hosts: tuple[str, ...] = ()
    attempts: int = 5
    retry_delay: float = 0.5
    retry_ceiling: float = 60.0
    connect_timeout: float = 15.0
    read_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """What a layer may not exceed; a stranger wrote it.

    reserve_bytes: free space that unpacking leaves alone, so that the node lives on.
    """

    entries: int = 5_000_000
    depth: int = 256
    reserve_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Settings of an `ImageStore`.

    parallel_layers: layers downloaded and unpacked at a time, each in a process of its own;
        0: one a core, at least two, at most four.
    keep_blobs: keep the compressed layers too (for export); twice the disk and the writes.
    pinned: patterns of image names which kubelet's garbage collection must leave alone.
    progress_timeout: seconds without a byte or an entry after which a pull is given up.
    idle_seconds: how long a worker process without work is kept.
    interrupted_seconds: how long the finished layers of an interrupted pull wait for the next try.
    """

    registries: RegistrySettings = RegistrySettings()
    limits: UnpackLimits = UnpackLimits()
    parallel_layers: int = 0
    keep_blobs: bool = False
    pinned: tuple[str, ...] = ()
    progress_timeout: float = 300.0
    idle_seconds: float = 10.0
    interrupted_seconds: float = 3600.0
