"""What a daemon and the spawner say to each other: three questions, all answered at once.

{"do": "hello"}                   -> {"version": V, "pid": N}
{"do": "spawn", "request": {...}} -> {"pid": N} or {"failed": text}; with it go
                                     a listening socket and a connected one, the monitor's
{"do": "quit"}                    -> {}: the spawner ends; the monitors it forked live on
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

HELLO = "hello"
SPAWN = "spawn"
QUIT = "quit"


def code_version() -> str:
    """Names the code that a spawner runs: one that was started from other files is replaced."""
    digest = hashlib.sha256(sys.version.encode())
    package = Path(__file__).resolve().parent.parent
    for path in sorted(package.rglob("*.py")):
        if "tests" not in path.parts:
            digest.update(str(path.relative_to(package)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
