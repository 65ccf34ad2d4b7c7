"""The node's CDI files: which of them has a device. Blocks; read anew whenever a file changes.

A later directory wins over an earlier one. Two files of one directory that have the same device
contradict each other: nobody gets that device, and the error names both. A file that is wrong takes
only its own devices away.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cri.cdi.spec import Device, Spec, parse

MAX_BYTES = 4 << 20  # of a file; one for eight GPUs has some 100 KB
MAX_FILES = 1024  # of a directory
_SHOWN = 12  # names in an error

Stamp = tuple[int, int, int, int]  # inode, size, times: another file, another stamp


class Unresolvable(Exception):
    """A device that no file has, or more than one; the text says which files were read."""


@dataclass(frozen=True, slots=True)
class SpecFile:
    """A file that was read. problem: why it can't be used, "" if it can."""

    path: str
    spec: Spec | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A device, and the file that it is of."""

    file: str
    spec: Spec
    device: Device


@dataclass(frozen=True, slots=True)
class Registry:
    """What the directories hold at this moment: a tuple of files for each of `directories`."""

    directories: tuple[str, ...]
    files: tuple[tuple[SpecFile, ...], ...]

    def find(self, kind: str, name: str) -> Found:
        """The device of the last directory that has it. Raises Unresolvable."""
        for files in reversed(self.files):
            found = [
                Found(file.path, file.spec, device)
                for file in files
                if file.spec is not None and file.spec.kind == kind
                for device in file.spec.devices
                if device.name == name
            ]
            if len(found) > 1:
                paths = " and ".join(one.file for one in found)
                raise Unresolvable(
                    f"CDI device {kind}={name} is in {paths}, and neither goes before the other: "
                    "remove it from one of them"
                )
            if found:
                return found[0]
        raise Unresolvable(f"no CDI device {kind}={name}: {self._seen(kind)}")

    def _seen(self, kind: str) -> str:
        """For whoever looks for a device: what there is, and where that was looked for."""
        of_kind = sorted(
            {
                device.name
                for file in self._all()
                if file.spec is not None and file.spec.kind == kind
                for device in file.spec.devices
            }
        )
        parts = []
        if of_kind:
            parts.append(f"{kind} has {_listed(of_kind)}")
        read = [file.path for file in self._all() if not file.problem]
        parts.append(f"read {_listed(read)}" if read else "there is no file to read")
        parts += [f"{file.path} can't be used: {file.problem}" for file in self.broken()[:_SHOWN]]
        parts.append(f"looked in {', '.join(self.directories) or 'no directory'}")
        return "; ".join(parts)

    def broken(self) -> list[SpecFile]:
        """The files that can't be used."""
        return [file for file in self._all() if file.problem]

    def count(self) -> int:
        """How many devices there are in usable files."""
        return sum(len(file.spec.devices) for file in self._all() if file.spec is not None)

    def _all(self) -> Iterator[SpecFile]:
        for files in self.files:
            yield from files


def read(directories: Sequence[str]) -> Registry:
    """The registry as the files are now. A file that has not changed is not read again."""
    return Registry(tuple(directories), tuple(tuple(_files(one)) for one in directories))


_KNOWN: dict[str, dict[str, tuple[Stamp, SpecFile]]] = {}
"""By directory and path, what was read last: never more than there are files. A directory's are
replaced as a whole, so threads need no lock."""


def _files(directory: str) -> Iterator[SpecFile]:
    before = _KNOWN.get(directory, {})
    now: dict[str, tuple[Stamp, SpecFile]] = {}
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith((".json", ".yaml")))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield SpecFile(directory, problem=error.strerror or str(error))
        return
    for name in names[:MAX_FILES]:
        path = os.path.join(directory, name)
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue  # replaced or removed at this moment
        except OSError as error:
            yield SpecFile(path, problem=error.strerror or str(error))
            continue
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        last = before.get(path)
        now[path] = last if last is not None and last[0] == stamp else (stamp, _file(path))
        yield now[path][1]
    _KNOWN[directory] = now
    if len(names) > MAX_FILES:
        yield SpecFile(directory, problem=f"has {len(names)} files: {MAX_FILES} are read")


def _file(path: str) -> SpecFile:
    try:
        return SpecFile(path, parse(_content(path), yaml=path.endswith(".yaml")))
    except OSError as error:
        return SpecFile(path, problem=error.strerror or str(error))
    except ValueError as error:
        return SpecFile(path, problem=str(error))


def _content(path: str) -> bytes:
    # O_NONBLOCK: a FIFO in a file's place must not hold us up
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("is no regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"is larger than such a file may be, {MAX_BYTES} bytes")
    return content


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
