"""How the verbs write: columns, ages, sizes, short ids. One look for all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

ID_DIGITS = 12
GAP = 2
STATES = {
    "ready": "green",
    "running": "green",
    "created": "yellow",
    "exited (0)": "bright_black",
    "not ready": "red",
    "unknown": "red",
}


def columns(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table without lines. On a terminal, headers are dim and states have their colour."""
    table = [list(headers), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(headers))]
    for number, row in enumerate(table):
        cells = [
            _coloured(cell, header=number == 0) + " " * (width - len(cell) + GAP)
            for cell, width in zip(row, widths, strict=True)
        ]
        click.echo("".join(cells).rstrip())


def _coloured(cell: str, *, header: bool) -> str:
    if header:
        return click.style(cell, dim=True)
    return click.style(cell, fg=STATES[cell]) if cell in STATES else cell


def short(identifier: str) -> str:
    """The digits of an id that a person reads: enough to be unique."""
    return identifier.removeprefix("sha256:")[:ID_DIGITS]


def age(created_at: int) -> str:
    """How long ago (nanoseconds since the epoch), in the largest unit that says something."""
    seconds = max(0, (time.time_ns() - created_at) // 1_000_000_000)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def size(count: float) -> str:
    """Bytes, in decimal units as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def printable(text: str) -> str:
    """What strangers have written, without the signs by which terminals are told to do things."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def note(text: str) -> None:
    """A remark for the person at the terminal; standard output stays for answers."""
    click.echo(click.style(text, dim=True), err=True)
