"""A Pod's volumes as directories of the node: which path each is, and how it comes to be.

What kubelet keeps below /var/lib/kubelet/pods, `podwright run` keeps in a directory of its own:

    /var/lib/podwright-pods/<pod uid>/
        .podwright                      marks a directory that `podwright rm` may delete
        volumes/<name>/                 emptyDir, and those volumes whose content only a cluster has
        logs/<container>/0.log          what the containers wrote
        etc-hosts                       with hostAliases
    /dev/shm/podwright-<pod uid>/<name>/   emptyDir with medium Memory: no mount of ours to leak
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cri.cli.pod.manifest import Fields

MARK = ".podwright"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # the node's own tmpfs, in a directory only root can enter
WITHOUT_CLUSTER = ("configMap", "secret", "projected", "downwardAPI")

KIND_OF_FILE: Mapping[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a regular file"),
    "FileOrCreate": (stat.S_ISREG, "a regular file"),
    "Socket": (stat.S_ISSOCK, "a unix socket"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


class VolumeFault(Exception):
    """A volume can't be had; the message names its path and what is wrong."""


@dataclass(frozen=True, slots=True)
class PodDirectory:
    """Where one pod's files are. Making and removing it are idempotent."""

    base: Path
    uid: str

    @property
    def path(self) -> Path:
        return self.base / self.uid

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def hosts(self) -> Path:
        return self.path / "etc-hosts"

    @property
    def memory(self) -> Path:
        return SHARED_MEMORY / f"podwright-{self.uid}"

    def make(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        (self.path / MARK).touch()

    def remove(self) -> None:
        """Deletes it, if it is one of ours: a path from an annotation is not trusted blindly."""
        if self.uid and (self.path / MARK).is_file():
            shutil.rmtree(self.memory, ignore_errors=True)
            shutil.rmtree(self.path)


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume: the node's path, and what has to be done before it is mounted."""

    name: str
    path: Path
    empty: bool = False
    kind: str = ""

    def make(self, group: int = -1) -> None:
        """Brings the path into being or checks it. VolumeFault says what is wrong with it.

        `group` (fsGroup) owns an empty volume; new files in it inherit that group.
        """
        if self.empty:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o777 if group < 0 else 0o2777)
            os.chown(self.path, -1, group)
        elif self.kind:
            self._check()

    def _check(self) -> None:
        if self.kind == "DirectoryOrCreate":
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        if self.kind == "FileOrCreate":
            self.path.touch(mode=0o644)
        fits, said = KIND_OF_FILE[self.kind]
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError as error:
            raise VolumeFault(f"volume {self.name}: {self.path} does not exist") from error
        if not fits(mode):
            raise VolumeFault(f"volume {self.name}: {self.path} is not {said}")

    def inside(self, sub_path: str) -> Path:
        """The path of `sub_path` in the volume, made if absent. It can't lead out of it."""
        if not sub_path:
            return self.path
        wanted = Path(os.path.realpath(self.path / sub_path))
        if not wanted.is_relative_to(Path(os.path.realpath(self.path))):
            raise VolumeFault(f"volume {self.name}: subPath {sub_path!r} leads out of the volume")
        if not wanted.exists():
            wanted.mkdir(mode=0o755, parents=True)
        return wanted


def plan(volumes: list[Fields], directory: PodDirectory) -> tuple[dict[str, Volume], list[Fields]]:
    """The volumes by name, and those which nothing here can provide."""
    planned: dict[str, Volume] = {}
    unknown: list[Fields] = []
    for volume in volumes:
        name = volume.text("name")
        if "hostPath" in volume:
            source = volume.inner("hostPath")
            planned[name] = Volume(name, Path(source.text("path")), kind=source.text("type"))
        elif "emptyDir" in volume:
            memory = volume.inner("emptyDir").text("medium") == "Memory"
            parent = directory.memory if memory else directory.path / "volumes"
            planned[name] = Volume(name, parent / name, empty=True)
        elif any(kind in volume for kind in WITHOUT_CLUSTER) or set(volume.values) == {"name"}:
            planned[name] = Volume(name, directory.path / "volumes" / name, empty=True)
        else:
            unknown.append(volume)
    return planned, unknown
