"""A layer archive becomes a directory that overlayfs can use as it is.

Whiteouts become character devices 0:0, opaque directories carry trusted.overlay.opaque
(https://docs.kernel.org/filesystems/overlayfs.html, "whiteouts and opaque directories"); so a layer
needs none of the layers below it to be unpacked, but for what `settle` adds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from image import directory
from image.errors import LayerMalformed
from image.settings import UnpackLimits
from image.unpack import tar
from image.unpack.tar import Archive, Entry
from image.unpack.tree import OPAQUE, Tree, below, components, is_whiteout, portable

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT: Final = b".wh."
_OPAQUE_MARK: Final = b".wh..wh..opq"
_CLUSTER: Final = 4096  # bytes: what a file's size is rounded up to when disk use is counted
_SPACE_CHECK: Final = 64 << 20  # bytes written between two looks at the free space
# What the kernel answers to names and numbers that only a malformed archive contains.
_MALFORMED: Final = (
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOENT,
    errno.EMLINK,
    errno.EFBIG,
)


Owner = Callable[[int, int], tuple[int, int]]  # uid and gid of an entry -> of what is made


@dataclass(slots=True)
class Counters:
    """How far the work has come; another thread may read it at any time."""

    fetched: int = 0  # compressed bytes
    entries: int = 0
    written: int = 0  # bytes of file contents


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of a layer's root directory."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a layer directory holds, and what `settle` has to do once the layers below are known.

    size: disk use in bytes; root: what the archive says of "./", if anything; opaque: nothing below
    this layer shows through; implicit: directories that the archive does not describe, in order;
    links: (path, target) of hard links whose target is not in this layer.
    """

    size: int
    inodes: int
    root: Attributes | None
    opaque: bool
    implicit: tuple[bytes, ...] = ()
    links: tuple[tuple[bytes, bytes], ...] = ()


def unpack(
    chunks: Iterator[bytes],
    target: Path,
    limits: UnpackLimits,
    counters: Counters,
    owner: Owner | None = None,
) -> Result:
    """Unpack a tar stream into `target`, an empty directory that nobody else uses.

    owner: who the users of the archive are here, None: the same. The caller sets the umask to 0.
    Reads the stream to its very end. Raises LayerMalformed, StorageFull, and whatever reading
    `chunks` raises; the directory is then good for nothing.
    """
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    unpacker = _Unpacker(root, Archive(chunks), limits, counters, owner)
    try:
        return unpacker.run()
    except OSError as error:
        raise directory.full(error, target) or error from error
    finally:
        unpacker.tree.forget()
        os.close(root)


@dataclass(slots=True)
class _Unpacker:
    root: int
    archive: Archive
    limits: UnpackLimits
    counters: Counters
    owner: Owner | None
    tree: Tree = field(init=False)
    described: dict[bytes, Entry] = field(default_factory=dict)  # directories, by real path
    links: list[tuple[bytes, bytes]] = field(default_factory=list)
    opaque: bool = False
    size: int = 0
    inodes: int = 1
    next_check: int = 0

    def __post_init__(self) -> None:
        self.tree = Tree(self.root, self.limits.depth)

    def run(self) -> Result:
        actions: Mapping[bytes, Callable[[Entry, bytes, bytes], None]] = {
            tar.FILE: self._file,
            tar.HARD_LINK: self._hard_link,
            tar.SYMBOLIC_LINK: self._symbolic_link,
            tar.CHARACTER_DEVICE: self._device,
            tar.BLOCK_DEVICE: self._device,
            tar.DIRECTORY: self._directory,
            tar.FIFO: self._device,
        }
        for entry in self.archive if self.owner is None else self._owned(self.owner):
            self._count()
            self.tree.trim()
            parts = components(entry.name)
            action = actions.get(entry.kind)
            if action is None:
                raise LayerMalformed(f"{entry.name!r}: an entry of unknown type {entry.kind!r}")
            if not parts:
                self._describe_root(entry)
                continue
            name = parts.pop()
            if len(name) > 255 or len(entry.name) > tar.NAME_LIMIT:
                raise LayerMalformed(f"{entry.name[:100]!r}…: the name is too long")
            try:
                if name.startswith(_WHITEOUT):
                    self._whiteout(entry, b"/".join(parts), name)
                else:
                    action(entry, b"/".join(parts), name)
            except OSError as error:
                if error.errno in _MALFORMED:
                    raise LayerMalformed(f"{entry.name!r}: {error.strerror}") from error
                raise
        self._finish_directories()
        return self._result()

    def _owned(self, owner: Owner) -> Iterator[Entry]:
        for entry in self.archive:
            uid, gid = owner(entry.uid, entry.gid)
            yield entry._replace(uid=uid, gid=gid)

    def _count(self) -> None:
        self.counters.entries += 1
        if self.counters.entries > self.limits.entries:
            raise LayerMalformed(f"more than {self.limits.entries} entries")
        if self.size + (self.inodes << 12) >= self.next_check:
            self._check_space()

    def _check_space(self) -> None:
        self.next_check = self.size + (self.inodes << 12) + _SPACE_CHECK
        directory.require_free(self.root, self.limits.reserve_bytes)

    def _describe_root(self, entry: Entry) -> None:
        if entry.kind != tar.DIRECTORY:
            raise LayerMalformed(f"{entry.name!r}: the root of a layer must be a directory")
        self.described[b""] = entry

    # --- one kind of entry each; parent: path of the directory, name: the last component ----------

    def _file(self, entry: Entry, parent: bytes, name: bytes) -> None:
        mode = entry.mode & 0o777
        fd = self._make(parent, name, lambda at: os.open(name, _CREATE, mode, dir_fd=at))
        try:
            self._write(fd, entry)
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
            if entry.mode & 0o7000:  # writing and chown clear set-id bits
                os.fchmod(fd, entry.mode)
            if entry.xattrs:
                _set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)
        self.inodes += 1

    def _write(self, fd: int, entry: Entry) -> None:
        stored = 0
        holes = iter(entry.pieces) if entry.pieces is not None else None
        offset = left = 0
        for piece in self.archive.contents():
            rest = piece
            while rest:
                if holes is not None and not left:
                    offset, left = next(holes)
                    os.lseek(fd, offset, os.SEEK_SET)
                    continue
                count = os.write(fd, rest[:left] if holes is not None else rest)
                left -= count if holes is not None else 0
                rest = rest[count:]
            stored += len(piece)
            self.counters.written += len(piece)
            self.size += len(piece)
            if self.size >= self.next_check:
                self._check_space()
        if holes is not None:
            os.ftruncate(fd, entry.size)
        self.size += -stored % _CLUSTER

    def _directory(self, entry: Entry, parent: bytes, name: bytes) -> None:
        real, at = self.tree.directory(parent)
        path = real + b"/" + name if real else name
        try:
            os.mkdir(name, 0o755, dir_fd=at)
            self.inodes += 1
            self.size += _CLUSTER
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode):
                self._replace_by_directory(parent, name)
        self.described[path] = entry
        self.tree.implicit.discard(path)

    def _replace_by_directory(self, parent: bytes, name: bytes) -> None:
        _, at = self.tree.directory(parent)
        was = self.tree.remove(at, name)
        _, at = self.tree.directory(parent)
        os.mkdir(name, 0o755, dir_fd=at)
        self.size += _CLUSTER
        if is_whiteout(was):  # removed, then made anew: what is below must stay hidden
            _mark_opaque(at, name)

    def _symbolic_link(self, entry: Entry, parent: bytes, name: bytes) -> None:
        if not entry.target or len(entry.target) >= tar.NAME_LIMIT:
            raise LayerMalformed(f"{entry.name!r}: a symbolic link to {entry.target[:100]!r}")
        self._make(parent, name, lambda at: os.symlink(entry.target, name, dir_fd=at))
        self._finish(entry, parent, name)

    def _device(self, entry: Entry, parent: bytes, name: bytes) -> None:
        """Character and block devices and named pipes."""
        types = {tar.CHARACTER_DEVICE: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK}
        major, minor = entry.device
        if major > 0xFFF or minor > 0xFFFFF:
            raise LayerMalformed(f"{entry.name!r}: there is no device {major}:{minor}")
        mode = types.get(entry.kind, stat.S_IFIFO) | (entry.mode & 0o777)
        number = os.makedev(major, minor)
        self._make(parent, name, lambda at: os.mknod(name, mode, number, dir_fd=at))
        self._finish(entry, parent, name)

    def _hard_link(self, entry: Entry, parent: bytes, name: bytes) -> None:
        parts = components(entry.target)
        if not parts:
            raise LayerMalformed(f"{entry.name!r}: a hard link to {entry.target!r}")
        source = parts.pop()
        real, _ = self.tree.directory(parent)
        try:
            source_real, source_at = self.tree.directory(b"/".join(parts), create=False)
            status = os.lstat(source, dir_fd=source_at)
        except FileNotFoundError:
            status = None
        if status is None or is_whiteout(status):  # it is in a layer below: `settle` will know
            self.links.append((real + b"/" + name if real else name, entry.target))
            return
        if stat.S_ISDIR(status.st_mode):
            raise LayerMalformed(f"{entry.name!r}: a hard link to the directory {entry.target!r}")
        if (source_real, source) == (real, name):
            return

        def link(at: int) -> None:
            _, source_at = self.tree.directory(b"/".join(parts), create=False)
            os.link(source, name, src_dir_fd=source_at, dst_dir_fd=at, follow_symlinks=False)

        self._make(parent, name, link)

    def _whiteout(self, entry: Entry, parent: bytes, name: bytes) -> None:
        """They hide what lower layers have, not what this one has (image-spec layer.md)."""
        if name == _OPAQUE_MARK:
            real, at = self.tree.directory(parent)
            if real:
                os.setxattr(at, OPAQUE, b"y")
            else:  # overlayfs does not look at the roots of its layers: the stack is cut instead
                self.opaque = True
            return
        if name.startswith(_WHITEOUT + _WHITEOUT):
            return  # bookkeeping of AUFS: .wh..wh.plnk and its like
        hidden = name[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise LayerMalformed(f"{entry.name!r}: a whiteout of nothing")
        _, at = self.tree.directory(parent)
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=at)
            self.inodes += 1
        except FileExistsError:
            if stat.S_ISDIR(os.lstat(hidden, dir_fd=at).st_mode):
                _mark_opaque(at, hidden)

    # --- what they share --------------------------------------------------------------------------

    def _make(self, parent: bytes, name: bytes, make: Callable[[int], int | None]) -> int:
        """Do `make` in the parent directory, after removing what is at `name`, if anything is."""
        real, at = self.tree.directory(parent)
        try:
            return make(at) or 0
        except FileExistsError:
            path = real + b"/" + name if real else name
            was = self.tree.remove(at, name)
            if stat.S_ISDIR(was.st_mode):
                for gone in below(path, self.described):
                    del self.described[gone]
                self.tree.implicit.difference_update(below(path, self.tree.implicit))
        return make(self.tree.directory(parent)[1]) or 0

    def _finish(self, entry: Entry, parent: bytes, name: bytes) -> None:
        """Owner, mode and time of anything but files and directories."""
        _, at = self.tree.directory(parent)
        if entry.uid or entry.gid:
            os.chown(name, entry.uid, entry.gid, dir_fd=at, follow_symlinks=False)
        if entry.mode & 0o7000 and entry.kind != tar.SYMBOLIC_LINK:
            os.chmod(name, entry.mode, dir_fd=at)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)
        self.inodes += 1

    def _finish_directories(self) -> None:
        """Deepest first, because whatever is made in a directory changes its time."""
        for path in sorted(self.described, reverse=True):
            entry = self.described[path]
            self.tree.trim()
            _, fd = self.tree.directory(path, create=False)
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                _set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _result(self) -> Result:
        root = self.described.get(b"")
        attributes = Attributes(root.mode, root.uid, root.gid) if root else None
        implicit = tuple(sorted(self.tree.implicit))
        return Result(self.size, self.inodes, attributes, self.opaque, implicit, tuple(self.links))


def _mark_opaque(parent: int, name: bytes) -> None:
    fd = os.open(name, directory.OPEN, dir_fd=parent)
    try:
        os.setxattr(fd, OPAQUE, b"y")
    finally:
        os.close(fd)


def _set_xattrs(fd: int, entry: Entry) -> None:
    """Those an image may bring; others are passed over."""
    for name, value in entry.xattrs.items():
        if not portable(os.fsdecode(name)):
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno != errno.ENOTSUP or name == b"security.capability":
                raise
