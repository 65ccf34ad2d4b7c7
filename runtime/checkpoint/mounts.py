"""The mounts of a restored container.

Nothing of what a checkpoint says about mounts is used, but for the numbers by which its open files
name them. The container's root is built as for any other container, somewhere in a mount namespace
that nobody else sees; what is found there is what CRIU is told to mount, each from its place.

Only a procfs has to be made by CRIU itself: it shows the pid namespace that is made in between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.checkpoint.criu import MountLine
from runtime.checkpoint.wire import Message, read, write

_FLAGS: Final = {  # MS_*
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "noatime": 1 << 10,
    "nodiratime": 1 << 11,
    "relatime": 1 << 21,
}
_UNSUPPORTED, _PROC, _OVERLAY = 0, 1, 17  # enum fstype of CRIU's mnt.proto
# Fields of its mnt_entry.
_FSTYPE, _ID, _DEVICE, _PARENT, _MOUNT_FLAGS, _ROOT, _PLACE, _SOURCE, _OPTIONS = range(1, 10)
_SHARED, _MASTER, _SUPER_FLAGS, _KEY = 10, 11, 17, 18
_NOBODY: Final = 1 << 20  # the parent of the root, and the first of the numbers that we make up


@dataclass(frozen=True, slots=True)
class MountImage:
    """data: mountpoints-*.img; external: what CRIU is told by `--external`."""

    data: bytes
    external: tuple[str, ...]


def visible(mounts: Sequence[MountLine], root: str) -> list[MountLine]:
    """Those at and below `root`, as seen from there, but for those that others cover."""
    found = []
    for line in mounts:
        if line.place != root and not line.place.startswith(f"{root}/"):
            continue
        if _mount_at(line.place) == line.id:
            place = line.place[len(root) :] or "/"
            found.append(
                MountLine(
                    line.id, line.parent, line.device, line.root, place, line.options, line.kind
                )
            )
    return found


def _mount_at(path: str) -> int:
    """The number of the mount that is found at a path."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"mnt_id:"))
    finally:
        os.close(fd)


def old_numbers(data: bytes) -> dict[str, int]:
    """From a checkpoint's mountpoints image: by which number its files know a mount point."""
    found = {}
    for entry in read("mountpoints", data):
        place = os.fsdecode(entry.data(_PLACE))
        found[f"/{place.lstrip('./')}" if place.startswith(".") else place] = entry.number(_ID)
    return found


def image(mounts: Sequence[MountLine], root: str, old: Mapping[str, int]) -> MountImage:
    """What CRIU is to mount. Pure.

    mounts: those that `visible` answers, with "/" among them; root: where that is now; old: see
    `old_numbers`. Propagation ends here: a restored mount is private.
    """
    numbers = _numbers(mounts, old)
    proc = next((line.device for line in mounts if line.place == "/proc" and _is_proc(line)), "")
    entries, external = [], []
    for index, line in enumerate(mounts):
        flags = sum(_FLAGS.get(option, 0) for option in line.options)
        parent = numbers.get(line.parent, _NOBODY)
        fields: list[tuple[int, int | str]] = [(_ID, numbers[line.id]), (_PARENT, parent)]
        fields += [(_MOUNT_FLAGS, flags), (_PLACE, line.place), (_OPTIONS, ""), (_SUPER_FLAGS, 0)]
        fields += [(_SHARED, 0), (_MASTER, 0)]
        if line.place == "/":
            fields += [(_FSTYPE, _OVERLAY), (_DEVICE, 1), (_ROOT, "/"), (_SOURCE, "overlay")]
        elif proc and line.device == proc and _is_proc(line):
            fields += [(_FSTYPE, _PROC), (_DEVICE, 2), (_ROOT, line.root), (_SOURCE, "proc")]
        else:
            key = f"m{index}"
            external.append(f"mnt[{key}]:{root}{line.place}")
            fields += [(_FSTYPE, _UNSUPPORTED), (_DEVICE, 16 + index), (_ROOT, "/")]
            fields += [(_SOURCE, "none"), (_KEY, key)]
        entries.append(Message.of(*sorted(fields)))
    return MountImage(write("mountpoints", reversed(entries)), tuple(external))


def _is_proc(line: MountLine) -> bool:
    return line.kind == "proc"


def _numbers(mounts: Sequence[MountLine], old: Mapping[str, int]) -> dict[int, int]:
    """Number of a mount now -> the one that files of the checkpoint know it by, or a new one."""
    taken: set[int] = set()
    numbers = {}
    for index, line in enumerate(mounts):
        known = old.get(line.place, 0)
        number = known if 0 < known < _NOBODY and known not in taken else _NOBODY + 1 + index
        taken.add(number)
        numbers[line.id] = number
    return numbers
