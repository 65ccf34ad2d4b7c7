"""CRIU's command line: what to say, and what it says when it fails. See criu(8).

Its RPC (`criu swrk`) offers nothing more of what is used here, and would want a protocol compiler.
Everything that is the pod's stays out of a checkpoint, because CRIU runs in the same network, IPC
and UTS namespaces; so do all mounts but the root, which are the node's to make. Connections of TCP
are closed on both sides of a checkpoint: the restored container has another address.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

IMAGES: Final = "checkpoint"  # CRIU's images in the directory of a checkpoint
DUMP_LOG: Final = "dump.log"
RESTORE_LOG: Final = "restore.log"
KNOWS_NO_NEW_PRIVILEGES: Final = (3, 19)  # the version since which its images have the flag
KNOWS_UNPRIVILEGED: Final = (3, 18)  # since then it runs as root of a user namespace
PIDS: Final = "pod-pids"  # a pid namespace that is not the container's own
PID_FILE: Final = "restored.pid"
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")  # mountinfo writes a blank as \040
_ERROR: Final = re.compile(r"Error \(([^)]*)\): *(.*)")
_TAIL: Final = 1 << 20  # bytes of a log that are looked at
_MOST_ERRORS: Final = 3
_MOST_TEXT: Final = 400  # characters of one
_CHECK_SECONDS: Final = 30.0
_GHOST_LIMIT: Final = "256M"  # a file that is open and deleted is part of the checkpoint
# What it tries, and does without: CRIU restores in the container's cgroup, with its devices.
_HARMLESS: Final = ("Can't setup RLIMIT_NOFILE for self", "tun: Unable to create tun")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class MountLine:
    """A line of mountinfo. root: what of the file system; options: of the mount itself."""

    id: int
    parent: int
    device: str
    root: str
    place: str
    options: tuple[str, ...]
    kind: str


def parse_mounts(lines: Iterable[bytes]) -> list[MountLine]:
    """See proc_pid_mountinfo(5)."""
    found = []
    for line in lines:
        left, _, right = line.partition(b" - ")
        number, parent, device, root, place, options = left.split(b" ")[:6]
        found.append(
            MountLine(
                id=int(number),
                parent=int(parent),
                device=device.decode(),
                root=_plain(root),
                place=_plain(place),
                options=tuple(options.decode().split(",")),
                kind=right.split(b" ")[0].decode(),
            )
        )
    return found


def _plain(path: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), path))


@dataclass(frozen=True, slots=True)
class Subject:
    """A process to be written down, with its descendants. mounts: of its namespace; freezer: the
    directory of its cgroup, "" without; pid_namespace: the inode of that which is its pod's, 0: it
    has its own, or the node's; terminal: see `terminals.key`."""

    pid: int
    mounts: Sequence[MountLine]
    freezer: str = ""
    pid_namespace: int = 0
    terminal: str = ""


def dump(program: str, subject: Subject, directory: str) -> list[str]:
    """Writes processes to directory/checkpoint; they stay as they are."""
    words = [program, "--no-default-config", "dump", "--tree", str(subject.pid)]
    words += _where(directory, DUMP_LOG)
    words += ["--leave-running", "--ghost-limit", _GHOST_LIMIT, *_COMMON]
    if subject.freezer:
        words += ["--freeze-cgroup", subject.freezer]
    if subject.pid_namespace:
        words += ["--external", f"pid[{subject.pid_namespace}]:{PIDS}"]
    if subject.terminal:
        words += ["--external", subject.terminal]
    for place in sorted({mount.place for mount in subject.mounts} - {"/"}):
        words += ["--external", f"mnt[{place}]:{place}"]
    return words


def restore(
    program: str, directory: str, root: str, external: Sequence[str], *, powerless: bool
) -> list[str]:
    """Makes the processes in directory/checkpoint anew, as children of CRIU's parent.

    root: a mount, the container's root; external: `mnt[KEY]:PATH` of all other mounts; powerless:
    CRIU is root of a user namespace only.
    """
    words = [program, "--no-default-config", "restore", "--root", root]
    words += _where(directory, RESTORE_LOG)
    words += ["--restore-detached", "--restore-sibling", *_COMMON]
    words += ["--pidfile", f"{directory}/{PID_FILE}"]
    if powerless:
        words.append("--unprivileged")
    for item in external:
        words += ["--external", item]
    return words


_COMMON: Final = ("--tcp-close", "--file-locks", "--manage-cgroups=ignore")


def _where(directory: str, log: str) -> list[str]:
    images = f"{directory}/{IMAGES}"
    return ["--images-dir", images, "--work-dir", directory, "--log-file", log, "-v4"]


def complaint(log: str, code: int) -> str:
    """Why it failed, from its log; a text that may come from a container, so it is cut short."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            said = errors(file.read().decode(errors="replace"))
    except OSError:
        said = ""
    return said or f"CRIU failed with exit status {code}, and does not say why"


def errors(log: str) -> str:
    """The first errors in a log: what follows them is only their consequence."""
    found = [
        found[2].strip()[:_MOST_TEXT]
        for found in map(_ERROR.search, log.splitlines())
        if found is not None and not any(text in found[2] for text in _HARMLESS)
    ]
    printable = ("".join(sign if sign.isprintable() else "?" for sign in text) for text in found)
    return "; ".join(list(dict.fromkeys(printable))[:_MOST_ERRORS])


def find(name: str) -> str:
    """The path of the program; "" if there is none."""
    return shutil.which(name, path=_PATH) or ""


def problem(program: str) -> str:
    """Why CRIU can't be used on this node: what `criu check` says; "" if it can. Blocks."""
    try:
        answer = subprocess.run(
            [program, "--no-default-config", "check"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHECK_SECONDS,
            check=False,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} check: {error}"
    if answer.returncode == 0:
        return ""
    said = errors(
        f"{answer.stdout.decode(errors='replace')}{answer.stderr.decode(errors='replace')}"
    )
    return f"`criu check` says: {said or f'exit status {answer.returncode}'}"


def version(program: str) -> tuple[int, ...]:
    """As (3, 17, 1); () if it does not say. Blocks."""
    try:
        answer = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHECK_SECONDS,
            check=False,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(rb"Version: (\d+(?:\.\d+)*)", answer.stdout)
    return tuple(map(int, found[1].split(b"."))) if found else ()
