"""Relabels a volume for a pod: all its files, by descriptor, and never what belongs to the node.

Links are relabelled, not followed. A file that has the label already is only looked at, so a walk
that was cut short goes on where it was when it is asked for again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from runtime.errors import RuntimeFault

XATTR = "security.selinux"
DEEPEST = (
    200  # directories in each other; each costs three frames and descriptors while we are below
)
# What no pod may take from the node: the names that the runtimes of this field refuse, and more.
SYSTEM = frozenset(
    (
        *("/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow"),
        *("/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root", "/run"),
        *("/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/lib64"),  # noqa: S108
        *("/usr/local", "/usr/sbin", "/usr/share", "/var", "/var/lib", "/var/log", "/var/tmp"),  # noqa: S108
    )
)
_LONGEST = 200
_OPEN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]  # st_dev, st_ino: a directory by whatever path or mount


class Refused(RuntimeFault):
    """It can't, or must not, be relabelled; the text says what and why."""


class OutOfTime(RuntimeFault):
    """There are too many files for one request; the next one goes on."""


def identities(paths: Iterable[str]) -> frozenset[Identity]:
    """Of the files at these paths, and of the directories above them."""
    found: set[Identity] = set()
    for path in {*SYSTEM, *paths}:
        while True:
            with contextlib.suppress(OSError):
                status = os.stat(path)
                found.add((status.st_dev, status.st_ino))
            if path == "/":
                break
            path = os.path.dirname(path)
    return frozenset(found)


def relabel(path: str, label: str, kept: frozenset[Identity], deadline: float) -> int:
    """Gives a file, or a directory and all below it, a label; answers how many were changed.

    kept: see `identities`: what is refused, wherever it is met; deadline: of time.monotonic().
    Blocks. Raises Refused, OutOfTime, OSError.
    """
    return _Walk(path, label, kept, deadline).run()


class _Walk:
    def __init__(self, path: str, label: str, kept: frozenset[Identity], deadline: float) -> None:
        self._path = path
        self._label = label.encode()
        self._kept = kept
        self._deadline = deadline
        self._device = -1
        self._changed = 0

    def run(self) -> int:
        fd = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            self._device = status.st_dev
            self._file(fd, status, self._path, 0)
        finally:
            os.close(fd)
        return self._changed

    def _file(self, fd: int, status: os.stat_result, path: str, depth: int) -> None:
        if (status.st_dev, status.st_ino) in self._kept:
            raise Refused(f"{_shown(path)} belongs to the node, and is not relabelled")
        self._set(fd, status, path)
        if stat.S_ISDIR(status.st_mode):
            if depth == DEEPEST:
                raise Refused(f"{_shown(path)}: more than {DEEPEST} directories in each other")
            self._below(fd, path, depth)

    def _below(self, fd: int, path: str, depth: int) -> None:
        listed = os.open(".", _LIST, dir_fd=fd)
        try:
            with os.scandir(listed) as entries:
                for entry in entries:
                    self._entry(listed, entry.name, path, depth)
        finally:
            os.close(listed)

    def _entry(self, directory: int, name: str, path: str, depth: int) -> None:
        if time.monotonic() > self._deadline:
            raise OutOfTime(f"{_shown(path)}: {self._changed} files relabelled so far: ask again")
        try:
            fd = os.open(name, _OPEN, dir_fd=directory)
        except FileNotFoundError:
            return  # the pod's other containers may be at work in it
        try:
            self._file(fd, os.fstat(fd), f"{path}/{name}", depth + 1)
        finally:
            os.close(fd)

    def _set(self, fd: int, status: os.stat_result, path: str) -> None:
        here = f"/proc/self/fd/{fd}"  # O_PATH takes no fsetxattr; a link's is the link's own
        try:
            if label_of(here) == self._label:
                return
            os.setxattr(here, XATTR, self._label)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise Refused(f"{_shown(path)}: {error.strerror}") from error
            if status.st_dev == self._device:
                raise Refused(f"{_shown(path)}: its file system keeps no labels") from error
            return  # something else, which is mounted in the volume
        self._changed += 1


def label_of(path: str | Path) -> bytes:
    """The label of a file, b"": it has none. Raises OSError."""
    try:
        return os.getxattr(path, XATTR).rstrip(b"\0")
    except OSError as error:
        if error.errno == errno.ENODATA:
            return b""
        raise


def _shown(path: str) -> str:
    """As text for a message, whatever somebody has called his files."""
    return repr(path if len(path) <= _LONGEST else f"…{path[-_LONGEST:]}")
