"""Names of a checkpoint's files, that CRIU opens as root: which of them stay in the container.

CRIU follows links, those of /proc too, while it has directories of the node open:
/proc/self/fd/126/../../etc/shadow is the node's, and so is /proc/PID/root, where pids are shared.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from runtime.checkpoint.wire import read
from runtime.linux import mount, resolve

if TYPE_CHECKING:
    from runtime.checkpoint.confine import Images
    from runtime.checkpoint.wire import Message

Stays = Callable[[str], bool]
"""Whether an absolute path does not lead out of the container."""
_WATCHED: Final = "inotify-wd.img"
_REG, _INOTIFY, _UNIX = 3, 13, 16  # fields of a file_entry
_NAME, _WATCHES, _UNIX_NAME, _UNIX_DIRECTORY = 6, 5, 11, 14  # of what is in them
_HANDLE, _PATH = 7, 4  # of an inotify_wd_entry, of its fh_entry: without a path it is any file's
_MAGIC: Final = frozenset(("cwd", "exe", "fd", "map_files", "ns", "root"))  # links of a process
_HERE: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def strayed(images: Images, opened: Sequence[Message], stays: Stays) -> str:
    """The first name that leads out; "" if none does. opened: the entries of files.img."""
    names = [entry.message(_REG).data(_NAME) for entry in opened if entry.has(_REG)]
    watches = [one for entry in opened for one in entry.message(_INOTIFY).messages(_WATCHES)]
    if _WATCHED in images.names():
        watches += read("inotify-wd", images.load(_WATCHED))
    names += [one.message(_HANDLE).data(_PATH) for one in watches]
    for entry in opened:
        one = entry.message(_UNIX)
        name = one.data(_UNIX_NAME)
        if name.strip(b"\0") and not name.startswith(b"\0"):
            names.append(os.path.dirname(os.path.join(b"/", one.data(_UNIX_DIRECTORY), name)))
    return next((repr(path[:200]) for path in map(os.fsdecode, names) if not stays(path)), "")


def within(place: str) -> Stays:
    """place: the container's root, as long as nothing of it runs."""

    def stays(path: str) -> bool:
        words = path.split("/")[1:]
        if not path.startswith("/") or path.startswith("//") or "\0" in path or ".." in words:
            return False
        root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = resolve.find_in_root(root, os.fsencode(path))
            if fd < 0:
                return _may_come(root, words)
            os.close(fd)
            return True
        finally:
            os.close(root)

    return stays


def _may_come(root: int, words: list[str]) -> bool:
    """What is not there may have been deleted, or be a process's. On the way there are no links,
    which may lead to what is not there yet either."""
    for index in range(len(words)):
        path = os.fsencode("/".join(words[: index + 1])) or b"."
        fd = resolve.find_in_root(root, path, _HERE, resolve=resolve.NO_SYMLINKS)
        if fd < 0:
            return fd == -errno.ENOENT
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                return False
            if mount.file_system_type(fd) == mount.PROC_SUPER_MAGIC and not _MAGIC.isdisjoint(
                words[index + 1 :]
            ):
                return False
        finally:
            os.close(fd)
    return True
