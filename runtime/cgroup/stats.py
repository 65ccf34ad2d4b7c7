"""What a cgroup uses, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes, page cache included. peak: 0 where the kernel keeps none (v2 before Linux 5.19)."""

    current: int
    peak: int
