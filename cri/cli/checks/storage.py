"""Where images and writable layers live: overlayfs must work there, and there must be room."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cri.cli.checks.finding import Finding, Place, fail, note, ok, warn
from cri.cli.show import size
from runtime.linux.mount import file_system_type, new_mount

TMPFS = 0x01021994
LEAST_BYTES = 5_000_000_000
LEAST_INODES = 100_000


def existing(path: Path) -> Path:
    """The path, or the nearest directory above that is there."""
    while not path.exists():
        path = path.parent
    return path


def overlay(place: Place) -> Iterator[Finding]:
    """An overlay over directories of the root can be mounted, with the marks that layers need."""
    root = existing(Path(place.config.root))
    try:
        with tempfile.TemporaryDirectory(prefix=".podwright-doctor-", dir=root) as scratch:
            _try_overlay(Path(scratch))
    except OSError as error:
        yield fail(
            "overlayfs",
            f"no overlay can be made in {root}: {error.strerror or error}",
            "modprobe overlay; or put `root` on ext4, or xfs with ftype=1, instead",
        )
    else:
        yield ok("overlayfs", f"works in {root}")


def _try_overlay(scratch: Path) -> None:
    for name in ("lower", "upper", "work"):
        (scratch / name).mkdir()
    whiteout = scratch / "lower" / "whiteout"
    os.mknod(whiteout, stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(scratch / "lower", "trusted.overlay.opaque", b"y")
    parameters = (
        (b"lowerdir", os.fsencode(scratch / "lower")),
        (b"upperdir", os.fsencode(scratch / "upper")),
        (b"workdir", os.fsencode(scratch / "work")),
    )
    os.close(new_mount(b"overlay", parameters))


def room(place: Place) -> Iterator[Finding]:
    """Space and inodes for images."""
    root = existing(Path(place.config.root))
    found = os.statvfs(root)
    free = found.f_bavail * found.f_frsize
    remedy = "podwright images rm; or put `root` on a larger disk"
    if free < LEAST_BYTES:
        yield warn("disk", f"only {size(free)} free in {root}", remedy)
    elif found.f_files and found.f_favail < LEAST_INODES:
        yield warn("disk", f"only {found.f_favail} inodes free in {root}", remedy)
    else:
        yield ok("disk", f"{size(free)} free in {root}")


def state(place: Place) -> Iterator[Finding]:
    """The state describes this boot, so it has to vanish with it."""
    path = existing(Path(place.config.state))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        on_tmpfs = file_system_type(fd) == TMPFS
    finally:
        os.close(fd)
    if on_tmpfs:
        yield ok("state", f"{path} is a tmpfs")
    else:
        remedy = "put `state` on a tmpfs, usually /run; it works on a disk, too, a little slower"
        yield note("state", f"{path} is not a tmpfs", remedy)


CHECKS = (overlay, room, state)
