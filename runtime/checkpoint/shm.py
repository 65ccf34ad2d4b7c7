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
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from runtime.init.values import UserMap
from runtime.linux import nameless

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
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


def copy(source: int, target: int, owner: Owner) -> None:
    """All that is in one directory into another; what has a name there already is left alone.

    owner: of a copy, from that of what is copied. A file is there whole, or not at all. Raises
    OSError; also for more than the source's file system has room for, which names of one file, or
    somebody who goes on writing, could make without an end.
    """
    room = os.fstatvfs(source)
    try:
        _Copying(owner, room.f_blocks * room.f_frsize).directory(source, target, 0)
    except OSError as error:
        raise OSError(error.errno, f"the pod's /dev/shm: {error.strerror}") from None


@dataclass(slots=True)
class _Copying:
    """left: bytes that may yet be copied."""

    owner: Owner
    left: int

    def directory(self, source: int, target: int, depth: int) -> None:
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
                self._one(fd, name, target, depth)
            finally:
                os.close(fd)

    def _one(self, fd: int, name: str, target: int, depth: int) -> None:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            self._file(fd, name, target, found)
        elif stat.S_ISDIR(found.st_mode):
            made = _make_directory(name, target)
            try:
                into = os.open(name, _DIRECTORY, dir_fd=target)
            except OSError as error:
                if not made and error.errno in _CHANGED:  # there is something else by that name
                    return
                raise
            try:
                self.directory(fd, into, depth + 1)
                if made:
                    _describe(into, found, self.owner)
            finally:
                os.close(into)

    def _file(self, fd: int, name: str, target: int, found: os.stat_result) -> None:
        """It has no name before it is whole: who copies may be ended, for want of memory say."""
        if _exists(name, target):
            return
        into = nameless.create(target)
        try:
            self._contents(fd, into, found.st_size)
            _describe(into, found, self.owner)
            with suppress(FileExistsError):
                nameless.give_name(into, target, name)
        finally:
            os.close(into)

    def _contents(self, source: int, target: int, size: int) -> None:
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
                self.left -= count
                if self.left < 0:
                    raise OSError(errno.EFBIG, "more than there is room for where it is")
            at = max(at, end)
        os.ftruncate(target, size)


def _exists(name: str, target: int) -> bool:
    try:
        os.lstat(name, dir_fd=target)
    except FileNotFoundError:
        return False
    return True


def _make_directory(name: str, target: int) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=target)
    except FileExistsError:
        return False
    return True


def _describe(fd: int, found: os.stat_result, owner: Owner) -> None:
    os.fchown(fd, *owner(found.st_uid, found.st_gid))
    os.fchmod(fd, found.st_mode & _MODES)
    os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
