"""What a layer can't know of itself: directories it left out, and hard links into other layers.

Some builders write `a/b/file` without entries for `a` and `a/b`. Unpacked alone, the layer gets
plain directories in their place, which would hide mode, owner and attributes of those below; so
they take them over. A hard link to a file of a lower layer gets a copy of that file to link to.
Such a layer belongs to the layers below it: its key is the chain id, not the diff id.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from image.directory import OPEN
from image.errors import LayerMalformed
from image.unpack.apply import Result
from image.unpack.tree import OPAQUE, Tree, components, is_whiteout

_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def settle(layer: Path, result: Result, lowers: Sequence[Path], depth: int) -> None:
    """Finish `layer` in place; lowers: the layers below it, topmost first, finished themselves.

    Raises LayerMalformed for a hard link to something that is nowhere.
    """
    root = os.open(layer, OPEN)
    tree = Tree(root, depth)
    tree.implicit.update(result.implicit)
    try:
        for path, target in result.links:
            tree.trim()
            _link(tree, path, target, lowers)
        for path in sorted(tree.implicit, reverse=True):
            tree.trim()
            _take_over(tree, path, lowers)
    finally:
        tree.forget()
        os.close(root)


def _link(tree: Tree, path: bytes, target: bytes, lowers: Sequence[Path]) -> None:
    source = components(target)
    name = source.pop()
    folder, _, link = path.rpartition(b"/")
    _, source_at = tree.directory(b"/".join(source))
    _, at = tree.directory(folder)
    with suppress(FileExistsError):  # a second link to the same file finds the copy
        _copy_up(tree, b"/".join((*source, name)), lowers, (source_at, name))
    status = os.lstat(name, dir_fd=source_at)
    if is_whiteout(status) or stat.S_ISDIR(status.st_mode):
        raise LayerMalformed(f"{path!r}: a hard link to {target!r}, which this layer removes")
    with suppress(FileExistsError):  # the archive had another entry of that name later
        os.link(name, link, src_dir_fd=source_at, dst_dir_fd=at, follow_symlinks=False)


def _copy_up(tree: Tree, path: bytes, lowers: Sequence[Path], to: tuple[int, bytes]) -> None:
    at, name = to
    with suppress(FileNotFoundError):
        os.lstat(name, dir_fd=at)
        raise FileExistsError(errno.EEXIST, "it is in this layer already", path)
    with _find(lowers, path) as found:
        if found is None:
            raise LayerMalformed(f"a hard link to {path!r}, which no layer has")
        parent, status = found
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=parent), name, dir_fd=at)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=at, follow_symlinks=False)
        elif stat.S_ISREG(status.st_mode):
            _copy_file(parent, at, name)
        else:
            raise LayerMalformed(f"a hard link to {path!r}, which is no file")


def _copy_file(source: int, target: int, name: bytes) -> None:
    reading = os.open(name, _FILE, dir_fd=source)
    writing = os.open(name, _COPY, 0o600, dir_fd=target)
    with os.fdopen(reading, "rb") as old, os.fdopen(writing, "wb") as new:
        while data := old.read(1 << 20):
            new.write(data)
        new.flush()
        _copy_attributes(old.fileno(), new.fileno())


def _copy_attributes(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if name != OPAQUE:
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _take_over(tree: Tree, path: bytes, lowers: Sequence[Path]) -> None:
    """Give an implicit directory the attributes of the one it lies upon, if there is one."""
    with _find(lowers, path) as found:
        if found is None or not stat.S_ISDIR(found[1].st_mode):
            return
        parent, _ = found
        fd = os.open(path.rpartition(b"/")[2], OPEN, dir_fd=parent)
        try:
            _copy_attributes(fd, tree.directory(path, create=False)[1])
        finally:
            os.close(fd)


@contextmanager
def _find(lowers: Sequence[Path], path: bytes) -> Iterator[tuple[int, os.stat_result] | None]:
    """What overlayfs would show at `path`: the directory that holds it, and its status."""
    for lower in lowers:
        with ExitStack() as stack:
            found, last = _look(stack, lower, path)
            if found is not None:
                yield found
                return
        if last:
            break
    yield None


def _look(
    stack: ExitStack, lower: Path, path: bytes
) -> tuple[tuple[int, os.stat_result] | None, bool]:
    """What one layer has at `path`, and whether it hides what is below it."""
    *folders, name = path.split(b"/")
    fd = os.open(lower, OPEN)
    stack.callback(os.close, fd)
    opaque = False
    for folder in folders:
        try:
            fd = os.open(folder, OPEN, dir_fd=fd)
        except FileNotFoundError:
            return None, opaque
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                return None, True  # a file, a link or a whiteout in the place of a directory
            raise
        stack.callback(os.close, fd)
        opaque = opaque or _is_opaque(fd)
    try:
        status = os.lstat(name, dir_fd=fd)
    except FileNotFoundError:
        return None, opaque
    return (None, True) if is_whiteout(status) else ((fd, status), opaque)


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False
