"""Counters that the kernel keeps in flat keyed files, and waiting for a cgroup to become empty."""

from __future__ import annotations

from runtime.cgroup import files


def counter(path: str, key: str) -> int:
    """The number after `key` in a file of lines "key number"; 0 without the file or the key."""
    try:
        text = files.read(path)
    except OSError:
        return 0  # no such controller, or the cgroup is gone
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == key:
            return int(number)
    return 0
