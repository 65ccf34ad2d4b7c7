"""Paths that can't leave a root: openat2(2) with RESOLVE_IN_ROOT, and what is built on it.

`root` is a descriptor of a directory. Absolute symbolic links and ".." stay below it, magic links
of /proc are refused. Nothing here joins strings to a path and hopes: each answer is a descriptor,
and what is created is created beside a descriptor (CVE-2018-15664, CVE-2021-30465, CVE-2024-45310).
"""

from __future__ import annotations

import enum
import errno
import os
import stat
import struct

from runtime.linux.libc import Integer, Size, Text, attempt


class Resolve(enum.IntFlag):
    """RESOLVE_* of linux/openat2.h."""

    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08
    IN_ROOT = 0x10


O_PATH = os.O_PATH | os.O_CLOEXEC
_IN_ROOT = int(Resolve.IN_ROOT | Resolve.NO_MAGICLINKS)
NO_SYMLINKS = int(Resolve.NO_SYMLINKS)
NO_XDEV = int(Resolve.NO_XDEV)
_NEW_FILE = stat.S_IFREG | 0o644
_DIRECTORY = O_PATH | os.O_DIRECTORY

_RETRIES = 128  # a rename or mount somewhere during a look-up of "..": EAGAIN, try again
_MAX_LINKS = 40  # as the kernel's own limit
_OPEN_HOW = struct.Struct("3Q")  # flags, mode, resolve

_openat2 = attempt(437, Integer, Text, Text, Size)


def find_in_root(root: int, path: bytes, flags: int = O_PATH, *, resolve: int = 0) -> int:
    """Like open_in_root, but answers -errno instead of raising."""
    mode = 0o644 if flags & os.O_CREAT else 0
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, _IN_ROOT | resolve)
    fd = _openat2(root, path, how, 24)
    for _ in range(_RETRIES):
        if fd != -errno.EAGAIN:
            break
        fd = _openat2(root, path, how, 24)
    return fd


def open_in_root(root: int, path: bytes, flags: int = O_PATH, *, resolve: int = 0) -> int:
    """Opens `path` as if `root` were "/". resolve: further RESOLVE_*; O_CREAT makes mode 0644."""
    fd = find_in_root(root, path, flags, resolve=resolve)
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), path)
    return fd


def mkdir_all_in_root(root: int, path: bytes, mode: int = 0o755) -> int:
    """Opens the directory `path`, making what is missing of it. Answers an O_PATH descriptor.

    A dangling symbolic link counts as what it points to: that is made.
    """
    for _ in range(_MAX_LINKS):
        fd = find_in_root(root, path, _DIRECTORY)
        if fd >= 0:
            return fd
        if fd != -errno.ENOENT:
            raise OSError(-fd, os.strerror(-fd), path)
        fd, path = _make_missing(root, path, mode)
        if fd >= 0:
            return fd
    raise OSError(errno.ELOOP, f"{path!r}: too many symbolic links, or someone removes it as we go")


def create_in_root(root: int, path: bytes) -> int:
    """Opens the file `path`, making an empty one, and its directories, if it is missing.

    A dangling symbolic link counts as what it points to: that is made.
    """
    for _ in range(_MAX_LINKS):
        fd = find_in_root(root, path)
        if fd == -errno.ENOENT:
            parent, name = parent_in_root(root, path)
            try:
                os.mknod(name, _NEW_FILE, dir_fd=parent)  # no open(2): nobody has it writable
                fd = find_in_root(parent, name, resolve=NO_SYMLINKS)
            except FileExistsError:
                if link := _link(parent, name):
                    path = _join(path.rstrip(b"/").rpartition(b"/")[0], link)
            finally:
                os.close(parent)
        if fd >= 0:
            return fd
        if fd not in (-errno.ENOENT, -errno.ELOOP):
            raise OSError(-fd, os.strerror(-fd), path)
    raise OSError(errno.ELOOP, f"{path!r}: too many symbolic links, or someone removes it as we go")


def parent_in_root(root: int, path: bytes) -> tuple[int, bytes]:
    """The directory in which `path` lies (made if missing), and its last name."""
    directory, _, name = path.rstrip(b"/").rpartition(b"/")
    if name in (b"", b".", b".."):
        raise OSError(errno.EINVAL, f"{path!r} names no entry of a directory")
    return mkdir_all_in_root(root, directory or b"/"), name


def read_in_root(root: int, path: bytes, limit: int) -> bytes:
    """The contents of the regular file `path`. Never blocks, never reads more than `limit`.

    OSError: EINVAL for what is no regular file (a fifo, a device), EFBIG beyond the limit.
    """
    fd = open_in_root(root, path)  # O_PATH: opening a device can have effects, looking at it none
    try:
        found = os.fstat(fd)
    finally:
        os.close(fd)
    _require_regular(found, path)
    fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _require_regular(os.fstat(fd), path)
        parts: list[bytes] = []
        left = limit + 1
        while left > 0 and (part := os.read(fd, min(left, 65536))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(fd)
    if left <= 0:
        raise OSError(errno.EFBIG, f"{path!r} is larger than {limit} bytes")
    return b"".join(parts)


def _require_regular(found: os.stat_result, path: bytes) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"{path!r} is not a regular file")


def _make_missing(root: int, path: bytes, mode: int) -> tuple[int, bytes]:
    """Makes the missing directories of a path. Met a dangling link: -1 and the path behind it."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    parent = os.dup(root)
    fresh = False  # have we made `parent` ourselves? then nothing is in it
    try:
        for index, name in enumerate(parts):
            child = -errno.ENOENT
            if not fresh:
                child = find_in_root(root, b"/".join(parts[: index + 1]), _DIRECTORY)
            if child < 0:
                if child != -errno.ENOENT:
                    raise OSError(-child, os.strerror(-child), path)
                try:
                    os.mkdir(name, mode, dir_fd=parent)
                    fresh = True
                except FileExistsError:
                    if link := _link(parent, name):
                        return -1, _join(b"/".join(parts[:index]), link, *parts[index + 1 :])
                child = open_in_root(parent, name, _DIRECTORY, resolve=NO_SYMLINKS)
            os.close(parent)
            parent = child
        made, parent = parent, -1
        return made, path
    finally:
        if parent >= 0:
            os.close(parent)


def _link(parent: int, name: bytes) -> bytes:
    """Where a symbolic link points; empty when it is none (any more)."""
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:
        return b""


def _join(directory: bytes, link: bytes, *rest: bytes) -> bytes:
    """The path behind a link that lies in `directory`. Only ever resolved below the root again."""
    base = b"" if link.startswith(b"/") else directory + b"/"
    return b"/".join((base + link, *rest))
