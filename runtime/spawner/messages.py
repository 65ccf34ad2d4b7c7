"""What a daemon and the spawner say to each other: three questions, all answered at once.

{"do": "hello"}                   -> {"version": V, "pid": N}
{"do": "spawn", "request": {...}} -> {"ok": Spawned} or {"failed": Failure}
                                     with the question go a listening socket and a connected one,
                                     the monitor's; with the answer, for a pod with a network of
                                     its own, its namespace and a netlink socket opened in it
{"do": "quit"}                    -> {}: the spawner ends; the monitors it forked live on
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.monitor.messages import Stage

HELLO = "hello"
SPAWN = "spawn"
QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Spawned:
    """A monitor lives in the pod's namespaces."""

    pid: int
    stages: tuple[Stage, ...] = ()


def code_version() -> str:
    """Names the code that a spawner runs: one that was started from other files is replaced."""
    digest = hashlib.sha256(sys.version.encode())
    package = Path(__file__).resolve().parent.parent
    for path in sorted(package.rglob("*.py")):
        if "tests" not in path.parts:
            digest.update(str(path.relative_to(package)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
