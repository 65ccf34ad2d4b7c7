"""What is taken from a checkpoint archive: regular files of known names, and nothing else.

An archive is a stranger's. Links, devices, logs, and the names of mounts and annotations that it
may contain are not even unpacked.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Final

from image.checkpoint.names import CONFIG, DIFF, IMAGES, SHM
from image.directory import OPEN, require_free
from image.errors import ArchiveMalformed, LayerMalformed
from image.unpack import tar
from image.unpack.apply import Counters
from image.unpack.tar import Archive

# CRIU's images of processes, and of no namespace, network, cgroup or mount but the list of mounts,
# of which only the numbers are read.
_IMAGE: Final = re.compile(
    r"(?:core|fdinfo|fs|ids|ipcns-msg|ipcns-sem|ipcns-shm|ipcns-var|mm|mountpoints|pagemap|pagemap-shmem|pages|pidns|timens)-\d{1,20}\.img"
    r"|ghost-file-[0-9a-f]{1,16}\.img"
    r"|(?:files|inventory|pstree|seccomp|pipes-data|fifo-data|sk-queues|tty-info|tty-data"
    r"|remap-fpath|memfd|filelocks|eventpoll-tfd|inotify-wd)\.img"
)
_CONFIG_LIMIT: Final = 1 << 20
_MEMBERS: Final = 200_000  # three or four for each process
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PIECE: Final = 1 << 20
_SPACE_CHECK: Final = 64 << 20


def wanted(name: str) -> bool:
    """Whether a member is one that is of use."""
    folder, _, image = name.rpartition("/")
    return name in (CONFIG, DIFF, SHM) or (folder == IMAGES and bool(_IMAGE.fullmatch(image)))


class Target:
    """The directory that gets what is taken. counters: of the work; reserve: bytes left alone."""

    def __init__(self, directory: Path, counters: Counters, reserve: int) -> None:
        self._directory = directory
        self._counters = counters
        self._reserve = reserve
        self._seen: set[str] = set()
        self._unchecked = _SPACE_CHECK
        (directory / IMAGES).mkdir(mode=0o700)  # which must not be there

    def take(self, name: str, pieces: Iterator[memoryview] | Iterator[bytes]) -> None:
        """One member. Raises ArchiveMalformed, StorageFull."""
        if name in self._seen:
            raise ArchiveMalformed(f"checkpoint: {name} is there twice")
        self._seen.add(name)
        self._counters.entries += 1
        if self._counters.entries > _MEMBERS:
            raise ArchiveMalformed(f"checkpoint: more than {_MEMBERS} members")
        with open(os.open(self._directory / name, _CREATE, 0o600), "wb", buffering=0) as file:
            for piece in pieces:
                rest = piece
                while rest:
                    rest = rest[file.write(rest) or 0 :]
                self._count(file.fileno(), len(piece))

    def _count(self, fd: int, size: int) -> None:
        self._counters.written += size
        self._unchecked += size
        if self._unchecked >= _SPACE_CHECK:
            self._unchecked = 0
            require_free(fd, self._reserve)

    def config(self) -> str:
        """config.dump. ArchiveMalformed if this is no checkpoint."""
        path = self._directory / CONFIG
        if CONFIG not in self._seen or f"{IMAGES}/inventory.img" not in self._seen:
            raise ArchiveMalformed(
                f"not a checkpoint: {CONFIG} and {IMAGES}/inventory.img have to be in it"
            )
        if path.stat().st_size > _CONFIG_LIMIT:
            raise ArchiveMalformed(f"checkpoint: {CONFIG} has more than {_CONFIG_LIMIT} bytes")
        return path.read_text(encoding="utf-8", errors="replace")


def opened(path: Path) -> FileIO:
    """A regular file that somebody else has named. Raises ArchiveMalformed."""
    try:
        fd = os.open(path, _READ)
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError as error:
        raise ArchiveMalformed(f"{path}: {error.strerror}") from error
    if not regular:
        os.close(fd)
        raise ArchiveMalformed(f"{path}: no regular file")
    return FileIO(fd)


def from_archive(path: Path, target: Target) -> None:
    """The members of a tar file. Raises ArchiveMalformed, StorageFull, OSError."""
    with opened(path) as file:
        archive = Archive(iter(lambda: file.read(_PIECE), b""))
        try:
            for entry in archive:
                name = os.fsdecode(entry.name).removeprefix("./")
                if not wanted(name):
                    continue
                if entry.kind != tar.FILE or entry.pieces is not None:
                    raise ArchiveMalformed(f"checkpoint: {name} is no plain file")
                target.take(name, archive.contents())
        except LayerMalformed as error:
            raise ArchiveMalformed(f"{path}: {error}") from error


def from_layers(layers: Sequence[Path], target: Target) -> None:
    """The members of an image, whose layers lie unpacked; topmost first."""
    seen: set[str] = set()
    for layer in layers:
        for name in _listed(layer):
            if name not in seen and wanted(name):
                seen.add(name)
                target.take(name, _contents(layer, name))


def _listed(layer: Path) -> Iterator[str]:
    """Names at the top of a layer, and in its `checkpoint`, which is no link."""
    top = os.open(layer, OPEN)
    try:
        yield from sorted(os.listdir(top))
        try:
            images = os.open(IMAGES, _READ | os.O_DIRECTORY, dir_fd=top)
        except OSError:
            return
        try:
            yield from (f"{IMAGES}/{name}" for name in sorted(os.listdir(images)))
        finally:
            os.close(images)
    finally:
        os.close(top)


def _contents(layer: Path, name: str) -> Iterator[bytes]:
    folder, _, file_name = name.rpartition("/")
    at = os.open(layer / folder, OPEN)
    try:
        fd = os.open(file_name, _READ, dir_fd=at)
    except OSError as error:
        raise ArchiveMalformed(f"checkpoint: {name} is no plain file") from error
    finally:
        os.close(at)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArchiveMalformed(f"checkpoint: {name} is no plain file")
        while piece := file.read(_PIECE):
            yield piece
