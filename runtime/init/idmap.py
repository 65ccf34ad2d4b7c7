"""Mounts whose files belong to the users of a pod's user namespace. See mount_setattr(2).

On disk nothing changes: what is root's there is root's in the namespace, through that mount, and
what root makes in the namespace is root's on disk.
"""

from __future__ import annotations

import os

from runtime.linux import mount
from runtime.linux.mount import AT_FDCWD, MountAttr

_IDMAP = int(MountAttr.IDMAP)


def apply(fd: int, path: str, user_ns_fd: int, *, recursive: bool = False) -> None:
    """Maps the ids of `fd`, a detached clone of the mount at `path`, or of its whole tree.

    OSError: its text names the file system that can't.
    """
    try:
        mount.mount_setattr(fd, attributes=_IDMAP, recursive=recursive, user_ns_fd=user_ns_fd)
    except OSError as error:
        text = _refusal(path, user_ns_fd, recursive=recursive)
        raise OSError(error.errno, text) from None


def clone(path: str, user_ns_fd: int) -> int:
    """A detached clone of the mount at `path`, with mapped ids."""
    fd = mount.clone_tree(AT_FDCWD, os.fsencode(path))
    apply(fd, path, user_ns_fd)
    return fd


def _refusal(path: str, user_ns_fd: int, *, recursive: bool) -> str:
    """Which file system it is that can't: the one of `path`, or one that is mounted below."""
    for place, kind in _mounts(os.fsencode(path), recursive=recursive):
        try:
            fd = mount.clone_tree(AT_FDCWD, place)
            try:
                mount.mount_setattr(fd, attributes=_IDMAP, user_ns_fd=user_ns_fd)
            finally:
                os.close(fd)
        except OSError:
            return (
                f"{os.fsdecode(kind)}, mounted at {os.fsdecode(place)!r}, can't map user ids as "
                "the pod's user namespace needs it (idmapped mounts): use another file system "
                "there, or hostUsers: true"
            )
    return f"the user ids of {path!r} can't be mapped"


def _mounts(path: bytes, *, recursive: bool) -> list[tuple[bytes, bytes]]:
    """(mount point, type) of the mount in which `path` lies, and of those below it."""
    path = os.path.realpath(path)
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    with open(f"/proc/self/fdinfo/{fd}", "rb") as fdinfo:
        number = next(line.split()[1] for line in fdinfo if line.startswith(b"mnt_id:"))
    os.close(fd)
    below = path.rstrip(b"/") + b"/"
    found: list[tuple[bytes, bytes]] = []
    with open("/proc/self/mountinfo", "rb") as mountinfo:
        for line in mountinfo:
            left, _, right = line.partition(b" - ")
            fields = left.split(b" ")
            place = _unescaped(fields[4])
            if fields[0] == number or (recursive and place.startswith(below)):
                found.append((place, right.split(b" ", 1)[0]))
    return found


def _unescaped(field: bytes) -> bytes:
    r"""A path of mountinfo, where space, tab, newline and backslash are written as \040 …"""
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)
