"""What a binary says that it can do: its `features`, where it has them. Runs it; blocks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass

from runtime.handlers.shim_options import Options, made_for_runc
from runtime.monitor.program import PATH

_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Features:
    """recursive_read_only: knows the mount option rro; problem: why the binary can't be used, "":
    nothing is known against it."""

    recursive_read_only: bool = False
    problem: str = ""


def ask(binary: str) -> Features:
    """A binary without `features` (they came with runc 1.1) can do no more than every one can."""
    if problem := _absent(binary):
        return Features(problem=problem)
    try:
        answer = subprocess.run(
            [binary, "features"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Features(problem=f"{binary} features: {error}")
    return parse(answer.stdout) if answer.returncode == 0 else Features()


def of_shim(shim: str, options: Options) -> Features:
    """Of the program that runc's shim calls; the others don't say, so they promise nothing."""
    if problem := _absent(shim):
        return Features(problem=problem)
    if not made_for_runc(shim):
        return Features()
    wanted = str(options.get("BinaryName", "runc"))
    return ask(shutil.which(wanted, path=PATH) or wanted)


def _absent(binary: str) -> str:
    """Why it can't be run; "": it can."""
    if not os.path.isfile(binary):
        return f"there is no program {binary}: install it"
    return "" if os.access(binary, os.X_OK) else f"{binary} is not executable: chmod a+x {binary}"


def parse(text: bytes) -> Features:
    """From features.json of the OCI runtime specification. Pure; nonsense promises nothing."""
    try:
        said: object = json.loads(text)
    except ValueError:
        return Features()
    options = said.get("mountOptions") if isinstance(said, dict) else None
    return Features(recursive_read_only=isinstance(options, list) and "rro" in options)
