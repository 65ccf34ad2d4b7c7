"""A container's writable directory becomes a layer: a tar archive of what it changed.

It may hold anything that a container can make: the walk goes by descriptors and follows no link.
Whiteouts and opaque directories get the form that image-spec's layer.md gives them; holes stay
holes, so that a file of exabytes costs what it costs on disk.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, cast

from image import directory
from image.checkpoint.owners import Owners
from image.checkpoint.pack import opened
from image.errors import CheckpointRefused
from image.unpack.apply import Counters
from image.unpack.tree import OPAQUE, is_whiteout, portable

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH: Final = 256  # as deep as a layer may be
_REDIRECT: Final = "trusted.overlay.redirect"
_PIECE: Final = 1 << 20


def write(
    upper: Path,
    target: Path,
    counters: Counters,
    owners: Owners | None = None,
    *,
    durable: bool = False,
) -> None:
    """A directory as the new file `target`, which is on disk then if it is to be durable.

    owners: whose the files are, if not the node's.
    Raises StorageFull, CheckpointRefused for what can't be said in an archive, OSError.
    """
    root = os.open(upper, _OPEN | os.O_DIRECTORY)
    try:
        with (
            open(os.open(target, _CREATE, 0o600), "wb") as file,
            opened(file) as archive,
        ):
            _Writer(archive, counters, owners).directory(root, "", 0)
        if durable:
            _sync(target)
    except OSError as error:
        raise directory.full(error, target.parent) or error from error
    finally:
        os.close(root)


def _sync(path: Path) -> None:
    fd = os.open(path, _OPEN)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Writer:
    archive: tarfile.TarFile
    counters: Counters
    owners: Owners | None
    linked: dict[int, str] = field(default_factory=dict)  # inode of several names -> the first

    def directory(self, fd: int, path: str, depth: int) -> None:
        """What is in a directory, and in those beneath."""
        if depth > _DEPTH:
            raise CheckpointRefused(f"directories nested deeper than {_DEPTH} can't be archived")
        for name in sorted(os.listdir(fd)):
            status = os.lstat(name, dir_fd=fd)
            self.counters.entries += 1
            where = f"{path}{name}"
            if is_whiteout(status):
                self._marker(f"{path}.wh.{name}", status)
            elif stat.S_ISDIR(status.st_mode):
                child = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=fd)
                try:
                    self._describe(child, where, status)
                    self.directory(child, f"{where}/", depth + 1)
                finally:
                    os.close(child)
            elif not name.startswith(".wh."):  # it would be taken for a whiteout
                self._other(fd, name, where, status)

    def _describe(self, fd: int, path: str, status: os.stat_result) -> None:
        member = self._member(path, status, tarfile.DIRTYPE)
        names = os.listxattr(fd)
        if _REDIRECT in names:
            raise CheckpointRefused(
                f"{path!r} was renamed (overlayfs redirect_dir): can't be archived"
            )
        _add_xattrs(member, fd, names)
        self.archive.addfile(member)
        if OPAQUE in names:
            self._marker(f"{path}/.wh..wh..opq", status)

    def _marker(self, path: str, status: os.stat_result) -> None:
        member = tarfile.TarInfo(path)
        member.mtime = int(status.st_mtime)
        self.archive.addfile(member)

    def _other(self, fd: int, name: str, path: str, status: os.stat_result) -> None:
        mode = status.st_mode
        first = self.linked.get(status.st_ino) if status.st_nlink > 1 else None
        if first is not None:
            member = self._member(path, status, tarfile.LNKTYPE)
            member.linkname = first
        elif stat.S_ISREG(mode):
            self._file(fd, name, path, status)
            return
        elif stat.S_ISLNK(mode):
            member = self._member(path, status, tarfile.SYMTYPE)
            member.linkname = os.readlink(name, dir_fd=fd)
        elif stat.S_ISFIFO(mode):
            member = self._member(path, status, tarfile.FIFOTYPE)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            kind = tarfile.CHRTYPE if stat.S_ISCHR(mode) else tarfile.BLKTYPE
            member = self._member(path, status, kind)
            member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        else:
            return  # a socket, which belongs to the process that has it
        if first is None and status.st_nlink > 1:
            self.linked[status.st_ino] = path
        self.archive.addfile(member)

    def _file(self, at: int, name: str, path: str, status: os.stat_result) -> None:
        with open(os.open(name, _OPEN | os.O_NONBLOCK, dir_fd=at), "rb", buffering=0) as file:
            member = self._member(path, status, tarfile.REGTYPE)
            if status.st_nlink > 1:
                self.linked[status.st_ino] = path
            _add_xattrs(member, file.fileno(), os.listxattr(file.fileno()))
            pieces = list(_pieces(file.fileno(), status.st_size))
            stored = sum(size for _, size in pieces)
            head = b""
            if stored < status.st_size:
                head = _sparse(member, pieces, status.st_size)
            member.size = len(head) + stored
            contents = _Contents(file, head, pieces, self.counters)
            self.archive.addfile(member, cast(IO[bytes], contents))

    def _member(self, path: str, status: os.stat_result, kind: bytes) -> tarfile.TarInfo:
        member = tarfile.TarInfo(path)
        member.type = kind
        member.mode = status.st_mode & 0o7777
        member.uid, member.gid = status.st_uid, status.st_gid
        if self.owners is not None:
            member.uid, member.gid = self.owners.inside(member.uid, member.gid)
        member.mtime = status.st_mtime_ns / 1e9
        return member


def _add_xattrs(member: tarfile.TarInfo, fd: int, names: list[str]) -> None:
    headers: dict[str, str] = {}
    for name in names:
        if portable(name):
            value = os.getxattr(fd, name)
            headers[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
    member.pax_headers = headers


def _pieces(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has contents: offset and length."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            return
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at - start


def _sparse(member: tarfile.TarInfo, pieces: list[tuple[int, int]], size: int) -> bytes:
    """GNU's sparse format 1.0: the map stands before the contents, up to a whole block."""
    folder, _, name = member.name.rpartition("/")
    member.pax_headers = {
        **member.pax_headers,
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": member.name,
        "GNU.sparse.realsize": str(size),
    }
    member.name = f"{folder}/GNUSparseFile.0/{name}".lstrip("/")
    lines = [str(len(pieces)), *(str(number) for piece in pieces for number in piece)]
    text = "".join(f"{line}\n" for line in lines).encode()
    return text.ljust(-(-len(text) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, b"\0")


class _Contents:
    """`head`, then the pieces of a file, as one stream."""

    def __init__(
        self, file: IO[bytes], head: bytes, pieces: list[tuple[int, int]], counters: Counters
    ) -> None:
        self._chunks = self._all(file.fileno(), head, pieces)
        self._rest = memoryview(b"")
        self._counters = counters

    @staticmethod
    def _all(fd: int, head: bytes, pieces: list[tuple[int, int]]) -> Iterator[bytes]:
        if head:
            yield head
        for offset, size in pieces:
            at, end = offset, offset + size
            while at < end:
                piece = os.pread(fd, min(_PIECE, end - at), at)
                if not piece:  # cut off by somebody since: the archive keeps its promise
                    piece = bytes(min(_PIECE, end - at))
                at += len(piece)
                yield piece

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            parts.append(self._rest[:size])
            self._rest = self._rest[size:]
            size -= len(parts[-1])
        piece = b"".join(parts)
        self._counters.written += len(piece)
        return piece
