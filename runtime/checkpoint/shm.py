"""The pod's shared memory (/dev/shm) as a directory of the node's disk, and back.

Whoever runs in the pod may change what is copied meanwhile, so everything goes by descriptors, and
no link is followed. Directories and regular files are all that is copied, with owner, time and the
modes that have a meaning where nothing can be executed: no links, devices, attributes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from runtime.init.values import UserMap

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODES: Final = 0o1777
_DEPTH: Final = 64
_PIECE: Final = 1 << 20
_NOBODY: Final = 65534
# Somebody took it away, or put something else there, since it was listed.
_CHANGED: Final = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)


def open_at(path: bytes) -> int:
    """What is mounted at a path; -1 if nothing is, as where a pod has the node's shared memory."""
    fd = os.open(path, _DIRECTORY)
    parent = os.stat(os.path.dirname(path))
    if os.fstat(fd).st_dev != parent.st_dev:
        return fd
    os.close(fd)
    return -1


Owner = Callable[[int, int], tuple[int, int]]


def inside(users: UserMap | None) -> Owner:
    """Uid and gid of the node -> who that is in a pod."""

    def owner(uid: int, gid: int) -> tuple[int, int]:
        if users is None:
            return uid, gid
        uid, gid = uid - users.uid, gid - users.gid
        return (uid if uid in range(users.uids) else _NOBODY), (
            gid if gid in range(users.gids) else _NOBODY
        )

    return owner


def outside(users: UserMap | None) -> Owner:
    """The reverse; who has no number there is somebody of the pod all the same."""

    def owner(uid: int, gid: int) -> tuple[int, int]:
        if users is None:
            return uid, gid
        return users.uid + min(uid, users.uids - 1), users.gid + min(gid, users.gids - 1)

    return owner


def copy(source: int, target: int, owner: Owner, *, depth: int = 0) -> None:
    """All that is in one directory into another; what has a name there already is left alone.

    owner: of a copy, from that of what is copied. Raises OSError.
    """
    if depth > _DEPTH:
        raise OSError(errno.ELOOP, f"directories nested deeper than {_DEPTH}")
    for name in sorted(os.listdir(source)):
        try:
            mode = os.lstat(name, dir_fd=source).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                continue
            fd = os.open(name, _OPEN, dir_fd=source)
        except OSError as error:
            if error.errno in _CHANGED:
                continue
            raise
        try:
            _copy(fd, name, target, owner, depth)
        finally:
            os.close(fd)


def _copy(fd: int, name: str, target: int, owner: Owner, depth: int) -> None:
    found = os.fstat(fd)
    if stat.S_ISDIR(found.st_mode):
        made = _make_directory(name, target)
        into = os.open(name, _DIRECTORY, dir_fd=target)
        try:
            copy(fd, into, owner, depth=depth + 1)
            if made:
                _describe(into, found, owner)
        finally:
            os.close(into)
    elif stat.S_ISREG(found.st_mode):
        try:
            into = os.open(name, _CREATE, 0o600, dir_fd=target)
        except FileExistsError:
            return
        try:
            _copy_contents(fd, into, found.st_size)
            _describe(into, found, owner)
        finally:
            os.close(into)


def _make_directory(name: str, target: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=target)
    except FileExistsError:
        return False
    return True


def _copy_contents(source: int, target: int, size: int) -> None:
    """Holes stay holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            break
        end = min(os.lseek(source, at, os.SEEK_HOLE), size)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            count = os.sendfile(target, source, at, min(_PIECE, end - at))
            if count == 0:  # cut off by somebody since
                break
            at += count
        at = max(at, end)
    os.ftruncate(target, size)


def _describe(fd: int, found: os.stat_result, owner: Owner) -> None:
    os.fchown(fd, *owner(found.st_uid, found.st_gid))
    os.fchmod(fd, found.st_mode & _MODES)
    os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
