"""From samples to a table and a JSON document."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from e2e.bench.measures.measure import Measure, Row
from e2e.bench.runtimes import BASELINE, PODWRIGHT

Collected = Mapping[str, Mapping[str, Sequence[float]]]  # runtime name -> row key -> samples


def table(measures: Sequence[Measure], names: Sequence[str], collected: Collected) -> Table:
    """One line a row: the medians, our ratio to the baseline, the goals and the verdict."""
    grid = Table(title="podwright beside its peers: medians", title_justify="left")
    grid.add_column("what")
    for name in names:
        grid.add_column(name, justify="right")
    for title in ("ratio", "must", "aim", "verdict"):
        grid.add_column(title, justify="right")
    for measure in measures:
        for row in measure.rows:
            medians = [median(collected, name, row.key) for name in names]
            cells = ["" if value is None else f"{_figure(value)} {row.unit}" for value in medians]
            grid.add_row(row.title, *cells, *_judged(row, collected))
        grid.add_section()
    return grid


def document(
    measures: Sequence[Measure], names: Sequence[str], collected: Collected
) -> dict[str, Any]:
    """The same as values, with every sample and what it was measured on."""
    rows = [_row(row, names, collected) for measure in measures for row in measure.rows]
    return {"machine": machine(), "baseline": BASELINE, "rows": rows}


def _row(row: Row, names: Sequence[str], collected: Collected) -> dict[str, Any]:
    factor = ratio(collected, row.key)
    figures = {
        name: {
            "median": median(collected, name, row.key),
            "samples": list(collected[name][row.key]),
        }
        for name in names
        if row.key in collected[name]
    }
    goals = {"must": row.must, "aim": row.aim, "ratio": factor, "verdict": verdict(row, factor)}
    described = {"key": row.key, "what": row.title.strip(), "unit": row.unit, "better": row.better}
    return {**described, **goals, "runtimes": figures}


def median(collected: Collected, name: str, key: str) -> float | None:
    samples = collected.get(name, {}).get(key)
    return statistics.median(samples) if samples else None


def ratio(collected: Collected, key: str) -> float | None:
    """podwright's median by the baseline's; None when one of them is missing."""
    ours, theirs = median(collected, PODWRIGHT, key), median(collected, BASELINE, key)
    return ours / theirs if ours is not None and theirs else None


def verdict(row: Row, factor: float | None) -> str:
    """`aim` or `must`: the goal that is reached; `short`: neither; empty: nothing to judge."""
    if factor is None or row.must is None or row.aim is None:
        return ""
    if row.better == "more":
        return "aim" if factor >= row.aim else "must" if factor >= row.must else "short"
    return "aim" if factor <= row.aim else "must" if factor <= row.must else "short"


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": os.getloadavg(),
        "cgroup": "1" if Path("/sys/fs/cgroup/cpuacct").exists() else "2",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("containerd", "runc", "crun")},
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def show(*grids: Table) -> None:
    """Print the tables, and what the figures were taken on."""
    facts = machine()
    console = Console(width=None if os.isatty(1) else 150)
    for grid in grids:
        console.print(grid)
    versions = "; ".join(text for text in facts["versions"].values() if text)
    load = ", ".join(f"{value:.1f}" for value in facts["load_average"])
    hardware = f"{facts['processors']} processors, cgroup v{facts['cgroup']}, load {load}"
    console.print(f"Linux {facts['kernel']}, {hardware}")
    console.print(f"Python {facts['python']}; {versions}")


def _judged(row: Row, collected: Collected) -> tuple[str, str, str, str]:
    factor = ratio(collected, row.key)
    sign = "≥" if row.better == "more" else "≤"
    goals = [f"{sign} {goal:g}x" if goal is not None else "" for goal in (row.must, row.aim)]
    return (
        "" if factor is None else f"{_figure(factor)}x",
        goals[0],
        goals[1],
        verdict(row, factor),
    )


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _version(program: str) -> str:
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.splitlines()[0]
