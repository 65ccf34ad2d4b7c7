"""Directories of a layer by their path in the archive, without ever leaving the layer.

The layer under construction is ours alone (its directory is 0700 and nothing runs in it), so what
has to be defended against is the archive itself: links it made earlier, `..`, absolute names. Each
component is opened by itself, O_NOFOLLOW, relative to its parent's descriptor; symbolic links are
read and resolved here, with the layer's root as the root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Final

from image import directory
from image.errors import LayerMalformed

_LINKS: Final = 40  # MAXSYMLINKS
_CACHED: Final = 256  # directory descriptors held
OPAQUE: Final = "trusted.overlay.opaque"
_PORTABLE: Final = (
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
)


def components(name: bytes) -> list[bytes]:
    """The parts of a path in an archive. A leading slash means the root of the layer.

    Raises LayerMalformed for `..`: no tool writes it, and nothing good can be meant.
    """
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise LayerMalformed(f"{name!r}: a name with '..' in it")
    return parts


class Tree:
    """The directories below `root`, a descriptor that the caller owns.

    implicit: directories which had to be made because something in them was unpacked, though the
    archive has not described them (so far).
    """

    def __init__(self, root: int, depth: int) -> None:
        self.implicit: set[bytes] = set()
        self._root = root
        self._depth = depth
        self._open: dict[bytes, int] = {}  # real path (no links in it) -> descriptor
        self._known: dict[bytes, tuple[bytes, int]] = {b"": (b"", root)}  # path asked for -> both

    def trim(self) -> None:
        """Close descriptors if they have become many. Call where none is in use."""
        if len(self._open) > _CACHED or len(self._known) > 16 * _CACHED:
            self.forget()

    def forget(self) -> None:
        """Close all descriptors but the root's: what was known of links may be untrue now."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        self._known = {b"": (b"", self._root)}

    def directory(self, path: bytes, *, create: bool = True) -> tuple[bytes, int]:
        """Where the directory `path` really is, and its descriptor, valid until `trim`.

        create: make what is missing. Raises FileNotFoundError without, LayerMalformed when a
        component is neither directory nor link to one.
        """
        known = self._known.get(path)
        if known is not None:
            return known
        found = self._walk(path, create=create)
        self._known[path] = found
        return found

    def _walk(self, path: bytes, *, create: bool) -> tuple[bytes, int]:
        todo = path.split(b"/")[::-1]
        real: list[bytes] = []
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":  # from a link's target; our path has no links in it, so this is right
                del real[-1:]
                continue
            if name in (b"", b"."):
                continue
            target = self._enter(real, name, create=create)
            if target is None:
                continue
            links += 1
            if links > _LINKS:
                raise LayerMalformed(f"{path!r}: more than {_LINKS} symbolic links in its path")
            if target.startswith(b"/"):
                real.clear()
            todo.extend(target.split(b"/")[::-1])
        return b"/".join(real), self._descriptor(real)

    def _descriptor(self, real: list[bytes]) -> int:
        """Of a directory that was entered before; reopened if it was forgotten since."""
        if not real:
            return self._root
        path = b"/".join(real)
        fd = self._open.get(path)
        if fd is None:
            fd = os.open(real[-1], directory.OPEN, dir_fd=self._descriptor(real[:-1]))
            self._open[path] = fd
        return fd

    def _enter(self, real: list[bytes], name: bytes, *, create: bool) -> bytes | None:
        """Go into `name`; the target if it is a symbolic link, else None and `real` is longer."""
        path = b"/".join((*real, name))
        if path not in self._open:
            parent = self._descriptor(real)
            try:
                self._open[path] = os.open(name, directory.OPEN, dir_fd=parent)
            except FileNotFoundError:
                if not create:
                    raise
                self._open[path] = self._make(parent, name, path)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                target = self._target(parent, name, path, create=create)
                if target is not None:
                    return target
        real.append(name)
        if len(real) > self._depth:
            raise LayerMalformed(f"{path[:100]!r}…: nested deeper than {self._depth}")
        return None

    def _make(self, parent: int, name: bytes, path: bytes) -> int:
        os.mkdir(name, 0o755, dir_fd=parent)
        self.implicit.add(path)
        return os.open(name, directory.OPEN, dir_fd=parent)

    def _target(self, parent: int, name: bytes, path: bytes, *, create: bool) -> bytes | None:
        status = os.lstat(name, dir_fd=parent)
        if stat.S_ISLNK(status.st_mode):
            return os.readlink(name, dir_fd=parent)
        if not is_whiteout(status):
            raise LayerMalformed(f"{path!r}: it is not a directory, yet something is in it")
        if not create:
            raise FileNotFoundError(errno.ENOENT, "it is a whiteout", path)
        os.unlink(name, dir_fd=parent)  # removed below, and here again: hide what was below
        fd = self._make(parent, name, path)
        self._open[path] = fd
        os.setxattr(fd, OPAQUE, b"y")
        return None

    def remove(self, parent: int, name: bytes) -> os.stat_result:
        """Remove what is at `name`, all of it; what it was. Descriptors may be closed by this."""
        status = os.lstat(name, dir_fd=parent)
        directory.remove_entry(parent, name)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self.forget()
        return status


def portable(attribute: str) -> bool:
    """Whether an extended attribute is part of a layer: capabilities, ACLs and user attributes.

    Other security.* and trusted.* speak to this node's kernel (labels, overlayfs), and so do
    overlayfs' own in user.*.
    """
    if attribute in _PORTABLE:
        return True
    return attribute.startswith("user.") and not attribute.startswith("user.overlay.")


def is_whiteout(status: os.stat_result) -> bool:
    """Overlayfs' mark for "removed here": a character device 0, 0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def below(path: bytes, paths: Iterable[bytes]) -> list[bytes]:
    """Those of `paths` that are `path` or beneath it."""
    prefix = path + b"/"
    return [other for other in paths if other == path or other.startswith(prefix)]
