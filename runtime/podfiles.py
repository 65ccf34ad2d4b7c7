"""The pod's own /etc files, on a small tmpfs: what a container writes there, it may write without
end, and the file system of the state directory is the node's /run.

It is mounted where every kind of runtime finds it by a path, as a network namespace's pin is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from runtime.linux import mount
from runtime.linux.mount import AT_FDCWD, MountAttr
from runtime.selinux.relabel import XATTR

ROOM = 1 << 20  # bytes for what containers add: kubelet's hosts files have some hundred lines
_INODES = 16  # nobody makes files, but each has 1 KiB, which is what all extended attributes get
_NAME = "files"  # in the monitor's directory
_ATTRIBUTES = MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC


def path(monitor: Path) -> Path:
    """Where the files of the pod are that has this monitor's directory."""
    files = monitor / _NAME
    return files if files.is_dir() else monitor  # as pods had it that run since earlier versions


def write(monitor: Path, texts: Mapping[str, str], owner: tuple[int, int], label: str) -> None:
    """Makes the monitor's directory and in it these files, of that uid and gid, and with SELinux's
    label if there is one. Raises OSError."""
    directory = monitor / _NAME
    directory.mkdir(mode=0o700, parents=True)
    contents = {name: text.encode() for name, text in texts.items()}
    size = ROOM + sum(map(len, contents.values()))
    limits = ((b"size", b"%d" % size), (b"nr_inodes", b"%d" % _INODES))
    fd = mount.new_mount(b"tmpfs", ((b"mode", b"0700"), *limits), _ATTRIBUTES)
    try:
        mount.move_mount(fd, AT_FDCWD, os.fsencode(directory))
    finally:
        os.close(fd)
    for name, content in contents.items():
        file = directory / name
        file.write_bytes(content)
        if owner != (0, 0):
            os.chown(file, *owner)
        if label:
            os.setxattr(file, XATTR, label.encode())


def remove(monitor: Path) -> None:
    """Takes them away. Idempotent; a container that still has one keeps that."""
    directory = monitor / _NAME
    with contextlib.suppress(OSError):  # EINVAL: nothing is mounted there (any more); ENOENT
        mount.umount(os.fsencode(directory), lazy=True)
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()
