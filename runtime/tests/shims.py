"""Shims for tests, and their processes."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from runtime.monitor.shim.plan import MARK

SHIM = os.environ.get("PODWRIGHT_SHIM") or ""  # another version's than the node's, under its name
SHIM = SHIM or shutil.which("containerd-shim-runc-v2", path="/usr/bin:/usr/local/bin") or ""
POD = f"s{os.getpid()}"  # by whose name shims are found and killed, those of other tests not


def script(path: Path, before: str) -> str:
    """A shim that does something before it does what runc's does; and is called as that is."""
    path.mkdir()
    program = path / "containerd-shim-runc-v2"
    program.write_text(f'#!/bin/sh\n{before}\nexec {SHIM} "$@"\n')
    program.chmod(0o755)
    return os.fspath(program)


def slow_runc(path: Path) -> str:
    """A runc that makes no container while there is a file `hold`."""
    program = path / "slow-runc"
    wait = f": > {path}/is-slow; while [ -e {path}/hold ]; do sleep 0.05; done"
    program.write_text(f'#!/bin/sh\ncase " $* " in *" create "*) {wait};; esac\nexec runc "$@"\n')
    program.chmod(0o755)
    return os.fspath(program)


def shims(sandbox_id: str) -> list[int]:
    """Processes of the sandbox's shim."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={sandbox_id}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
