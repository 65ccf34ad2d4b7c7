"""A directory of ours becomes an archive, whole and durable or not at all.

The file has no name until it is complete: what a kill leaves of it, the kernel takes away.
"""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

from image import directory
from image.checkpoint.names import CONFIG
from image.errors import AlreadyThere, CheckpointRefused, ImageFault
from image.unpack.apply import Counters

_PIECE: Final = 1 << 20


def pack(source: Path, location: Path, counters: Counters) -> int:
    """Writes the archive `location` (mode 0600), which must not be there; answers its size.

    source: a directory, with directories in it.
    Raises AlreadyThere, StorageFull, CheckpointRefused.
    """
    parent = location.parent
    try:
        fd = os.open(parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(parent, error) from error
    with open(fd, "wb") as file:
        try:
            with opened(file) as archive:
                for path in _below(source):
                    _add(archive, path, str(path.relative_to(source)), counters)
            file.flush()
            os.fsync(fd)
            _name(fd, location)
        except OSError as error:
            raise directory.full(error, parent) or error from error
        directory.fsync(parent)
        return os.fstat(fd).st_size


def opened(file: IO[bytes]) -> tarfile.TarFile:
    """A tar archive that is being written."""
    return tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)


def _below(source: Path) -> Iterator[Path]:
    """CONFIG comes first, for tools that read only that."""
    for path in sorted(source.iterdir(), key=lambda one: (one.name != CONFIG, one.name)):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)


def _add(archive: tarfile.TarFile, path: Path, name: str, counters: Counters) -> None:
    counters.entries += 1
    member = tarfile.TarInfo(name)
    status = path.stat()
    member.mode, member.mtime = status.st_mode & 0o7777, int(status.st_mtime)
    if path.is_dir():
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
        return
    member.size = status.st_size
    with path.open("rb") as file:
        archive.addfile(member, cast(IO[bytes], _Counted(file, counters)))


class _Counted:
    """A file that says how far it has been read: archives are large, and silence is death."""

    def __init__(self, file: IO[bytes], counters: Counters) -> None:
        self._file = file
        self._counters = counters

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._counters.written += len(piece)
        return piece


def _name(fd: int, location: Path) -> None:
    """Gives it its name; by a descriptor of its directory, as Python follows no link else."""
    at = os.open(location.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{fd}", location.name, dst_dir_fd=at, follow_symlinks=True)
    except FileExistsError:
        raise AlreadyThere(os.fspath(location)) from None
    finally:
        os.close(at)


def _unwritable(parent: Path, error: OSError) -> ImageFault:
    if error.errno in (errno.EOPNOTSUPP, errno.EISDIR):
        text = "its file system knows no files without names (O_TMPFILE): choose a local directory"
        return CheckpointRefused(f"no checkpoint can be written to {parent}: {text}")
    return directory.full(error, parent) or CheckpointRefused(
        f"no checkpoint can be written to {parent}: {error.strerror}"
    )
