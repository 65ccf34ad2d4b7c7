"""The kernel's AppArmor profiles: which there are, and how ours gets among them.

https://docs.kernel.org/admin-guide/LSM/apparmor.html, apparmor_parser(8)
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from runtime.errors import RuntimeFault

DEFAULT = "podwright-default"
TEXT = Path(__file__).with_name(DEFAULT)
PARSER = "apparmor_parser"
PATH = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"
PATIENCE = 30.0  # seconds; the parser takes a tenth of one

_ENABLED = "module/apparmor/parameters/enabled"
_PROFILES = "kernel/security/apparmor/profiles"


class ProfileNotLoaded(RuntimeFault):
    """Our profile could not be given to the kernel; the text says why, and what to do."""


def enabled(sys: Path = Path("/sys")) -> bool:
    """Whether the kernel confines processes by AppArmor."""
    try:
        return (sys / _ENABLED).read_text().strip() == "Y"
    except OSError:
        return False


def loaded(sys: Path = Path("/sys")) -> frozenset[str]:
    """The names of the profiles that the kernel has. Raises OSError where it doesn't say."""
    lines = (sys / _PROFILES).read_text().splitlines()
    return frozenset(line.rpartition(" (")[0] for line in lines)  # "name (enforce)"


def load_default() -> None:
    """Gives the kernel our profile, in place of an older one. Raises ProfileNotLoaded. Blocks."""
    parser = shutil.which(PARSER, path=PATH)
    if parser is None:
        raise ProfileNotLoaded(f"{PARSER} is missing: apt install apparmor")
    command = [parser, "--replace", "--skip-cache", str(TEXT)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProfileNotLoaded(f"{PARSER}: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[:400]
        raise ProfileNotLoaded(f"{' '.join(command)} ends with {done.returncode}: {said}")
