"""Removes what a sandbox's processes left, when no monitor is there any more to do it.

A monitor writes the path of each cgroup into `cgroups` in its directory before it makes it, so
that this module can find, kill and remove everything by what lies on disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from runtime import podfiles
from runtime.cgroup import tree
from runtime.errors import RuntimeFault
from runtime.init.sandbox import unpin
from runtime.linux import marks
from runtime.linux.process import kill_and_wait, start_time

CGROUPS_FILE = "cgroups"
STATES_FILE = "states"  # a line for each path that a binary keeps its own state under
MARKS_FILE = "marks"  # a line NAME=VALUE for each mark that processes of a shim carry


@dataclass(frozen=True, slots=True)
class Leftovers:
    """directory: the monitor's; netns_path: the pin; owned_cgroup: removed too, empty for none."""

    directory: Path
    netns_path: Path
    owned_cgroup: str = ""


def sweep(leftovers: Leftovers) -> None:
    """Idempotent; every step is tried even if one fails, then the first failure is raised."""
    failures: list[OSError | RuntimeFault] = []
    for step in (
        _end_monitor,
        _end_shims,
        _remove_cgroups,
        _remove_states,
        _unpin,
        _remove_directory,
    ):
        try:
            step(leftovers)
        except (OSError, RuntimeFault) as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _end_monitor(leftovers: Leftovers) -> None:
    """A monitor that did not end when asked is killed: its containers die with it (PDEATHSIG)."""
    pid_file = leftovers.directory / "pid"
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid_text, start_text = pid_file.read_text().split()
        pid = int(pid_text)
        pidfd = os.pidfd_open(pid)
        try:
            if start_time(pid) == start_text:  # not somebody who got the number since
                kill_and_wait(pidfd)
        finally:
            os.close(pidfd)


def _end_shims(leftovers: Leftovers) -> None:
    """Nobody is their parent; with the last process in it a shim's mount namespace ends."""
    for mark in set(_lines(leftovers.directory / MARKS_FILE)):
        name, _, value = mark.partition("=")
        marks.kill(name, value)


def _remove_cgroups(leftovers: Leftovers) -> None:
    hierarchy = tree.detect()
    listed = _paths(leftovers.directory / CGROUPS_FILE)
    for path in filter(None, (*listed, leftovers.owned_cgroup)):
        cgroup = hierarchy.cgroup(path)
        if cgroup.exists():
            cgroup.kill()
            cgroup.remove()
        if (leftovers.directory / STATES_FILE).exists():
            _remove_strange_cgroups(path)


def _remove_strange_cgroups(path: str) -> None:
    """In hierarchies that we don't use, but binaries do: name=systemd, a hybrid's cgroup2."""
    for top in tree.mount_points():
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(top + path)


def _remove_states(leftovers: Leftovers) -> None:
    """What an OCI runtime would have removed by its `delete`: a directory with the container's id
    as its name (runc, crun), or files whose names begin so (runsc)."""
    for path in map(Path, _paths(leftovers.directory / STATES_FILE)):
        for found in path.parent.glob(f"{path.name}*"):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)


def _paths(file: Path) -> list[str]:
    return [line for line in _lines(file) if line.startswith("/")]


def _lines(file: Path) -> list[str]:
    """The lines that are whole. The beginning of one is no name of anything that was made, but may
    be one of something else: the parent of all pods' cgroups, say."""
    try:
        *lines, _rest = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [os.fsdecode(line) for line in lines if line and b"\0" not in line]


def _unpin(leftovers: Leftovers) -> None:
    unpin(os.fspath(leftovers.netns_path))


def _remove_directory(leftovers: Leftovers) -> None:
    podfiles.remove(leftovers.directory)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(leftovers.directory)
