"""The run's figures as one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

Row = tuple[str, str]
_MIB = 1 << 20


def table(document: Mapping[str, Any]) -> Table:
    """What was measured, and its figures."""
    grid = Table(title="podwright under load", title_justify="left")
    grid.add_column("what")
    grid.add_column("figures")
    for section in (_standing, _lives, _left):
        for row in section(document):
            grid.add_row(*row)
        grid.add_section()
    return grid


def _standing(document: Mapping[str, Any]) -> Iterator[Row]:
    told = document["standing"]
    if not told:
        return
    yield f"{told['pods']} pods started", f"{told['pods_per_second']:.1f} pods/s"
    for name, cores in told["cores"].items():
        yield f"CPU of {name}, {told['seconds']:.0f} s of habits", f"{cores:.3f} cores"
    for name, held in told["held"].items():
        yield f"{name}: held meanwhile", _held([held])
    for what, call in told["calls"].items():
        if call.get("calls") or call.get("failures") or not call.get("implemented", True):
            yield what, _call(call)
    probes = told["calls"]["ExecSync"]
    made = probes.get("calls", 0) + sum(probes.get("failures", {}).values())
    yield "probes that failed or took more than 1 s", f"{told['late_probes']} of {made}"
    yield "events", "not implemented" if told["events"] is None else str(told["events"])


def _lives(document: Mapping[str, Any]) -> Iterator[Row]:
    told = document["lives"]
    if not told:
        return
    yield f"{told['lives']} lives", f"{told['lives_per_second']:.1f} lives/s"
    yield "one life", _call(told["life"])
    held = told["held"]
    for name in ("daemon", "spawner"):
        yield f"{name}: before → middle → after", _held([at[name] for at in held.values()])


def _left(document: Mapping[str, Any]) -> Iterator[Row]:
    left = document["left"]
    yield "left behind", "\n".join(left) if left else "nothing"


def _call(call: Mapping[str, Any]) -> str:
    if not call.get("implemented", True):
        return "not implemented"
    parts = [f"{call['calls']} calls"]
    if "p50" in call:
        parts.append("p50 {p50:.1f}, p99 {p99:.1f}, max {max:.1f} ms".format(**call))
    parts += (f"{count} failed: {why}" for why, count in call["failures"].items())
    return "; ".join(parts)


def _held(moments: list[Mapping[str, int]]) -> str:
    """One line a resource, the moments in order."""
    lines = []
    for what in moments[0]:
        values = [moment[what] for moment in moments]
        in_mib = what in ("rss", "pss")
        figures = (f"{value / _MIB:.1f}" if in_mib else str(value) for value in values)
        lines.append(f"{what} {' → '.join(figures)}{' MiB' if in_mib else ''}")
    return "\n".join(lines)
