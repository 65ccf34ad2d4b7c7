"""A finding: what was looked at, how it is, and what to do about it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cri.config import Config


class Level(enum.Enum):
    """How bad it is. FAIL: pods can't run; WARN: something will not work, or will hurt later."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` is empty only where nothing needs to be done."""

    level: Level
    about: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The node that is looked at: its configuration and its kernel's files."""

    config: Config
    address: str
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    etc: Path = Path("/etc")
    run: Path = Path("/run")

    def sysctl(self, name: str) -> str:
        """The value of a sysctl; "" where the kernel has none of that name."""
        path = self.proc / "sys" / name.replace(".", "/")
        try:
            return path.read_text().strip()
        except OSError:
            return ""


Check = Callable[[Place], Iterator[Finding]]


def ok(about: str, text: str) -> Finding:
    return Finding(Level.OK, about, text)


def note(about: str, text: str, remedy: str = "") -> Finding:
    return Finding(Level.NOTE, about, text, remedy)


def warn(about: str, text: str, remedy: str) -> Finding:
    return Finding(Level.WARN, about, text, remedy)


def fail(about: str, text: str, remedy: str) -> Finding:
    return Finding(Level.FAIL, about, text, remedy)
