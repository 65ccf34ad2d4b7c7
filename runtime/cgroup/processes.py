"""What a cgroup's processes hold, from /proc."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MOST_PROCESSES: Final = 1000  # of which descriptors are counted
_MOST_DESCRIPTORS: Final = 4096  # that are looked at for sockets


@dataclass(frozen=True, slots=True)
class Processes:
    """None: too many to look at each. open_files_limit: of the first process, None: unlimited."""

    count: int
    descriptors: int | None
    sockets: int | None
    open_files_limit: int | None


def look(pids: Sequence[int]) -> Processes:
    """Processes that end meanwhile hold nothing."""
    held = [_descriptors(pid) for pid in pids] if len(pids) <= _MOST_PROCESSES else None
    descriptors = None if held is None else sum(held)
    sockets = None
    if descriptors is not None and descriptors <= _MOST_DESCRIPTORS:
        sockets = sum(map(_sockets, pids))
    return Processes(len(pids), descriptors, sockets, _open_files_limit(pids))


def _descriptors(pid: int) -> int:
    """Since Linux 6.2 the directory's size is their number; before it was 0."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _sockets(pid: int) -> int:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return sum(_is_socket(entry.path) for entry in entries)
    except OSError:
        return 0


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except OSError:
        return False


def _open_files_limit(pids: Sequence[int]) -> int | None:
    for pid in pids[:1]:
        try:
            soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        except OSError:
            return None
        return None if soft == resource.RLIM_INFINITY else soft
    return None
