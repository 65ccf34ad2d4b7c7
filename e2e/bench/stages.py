"""What podwright's own timelines say a pod's life is made of, in microseconds."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from rich.table import Table

from e2e.bench.measures.pod_life import ENDING, STARTING

Timeline = Mapping[str, Any]  # {rpc, code, duration, stages: [{name, start, duration}]}, in ns
_TRACE = "/podwright.v1.Diagnostics/Trace"


def fetch(address: str, *, lives: int) -> list[Timeline]:
    """The timelines of the latest lives of pods."""
    limit = lives * len((*STARTING, *ENDING))
    with grpc.insecure_channel(f"unix://{address}") as channel:
        trace: Callable[..., bytes] = channel.unary_unary(_TRACE)
        answer = json.loads(trace(json.dumps({"limit": limit}).encode(), timeout=10))
    timelines: list[Timeline] = answer["timelines"]
    return timelines


def summary(timelines: Sequence[Timeline]) -> list[dict[str, Any]]:
    """One entry an RPC of a pod's life: {rpc, count, microseconds, stages: [{name, …}]}.

    Every figure is a median over the timelines; stages come in the order of their starts.
    """
    by_rpc: dict[str, list[Timeline]] = defaultdict(list)
    for timeline in timelines:
        if timeline["code"] == "OK":
            by_rpc[timeline["rpc"]].append(timeline)
    return [
        {
            "rpc": rpc,
            "count": len(by_rpc[rpc]),
            "microseconds": _median([timeline["duration"] for timeline in by_rpc[rpc]]),
            "stages": _stages(by_rpc[rpc]),
        }
        for rpc in (*STARTING, *ENDING)
        if rpc in by_rpc
    ]


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    grid = Table(title="podwright: where the time goes (medians, µs)", title_justify="left")
    for title in ("RPC", "stage"):
        grid.add_column(title)
    for title in ("begins", "takes"):
        grid.add_column(title, justify="right")
    for entry in found:
        grid.add_row(entry["rpc"], "", "", f"{entry['microseconds']:.0f}")
        for stage in entry["stages"]:
            figures = (f"{stage[key]:.0f}" for key in ("begins", "takes"))
            grid.add_row("", stage["name"], *figures)
        grid.add_section()
    return grid


def _stages(timelines: Sequence[Timeline]) -> list[dict[str, Any]]:
    starts: dict[str, list[int]] = defaultdict(list)
    durations: dict[str, list[int]] = defaultdict(list)
    for timeline in timelines:
        for stage in timeline["stages"]:
            starts[stage["name"]].append(stage["start"])
            durations[stage["name"]].append(stage["duration"])
    stages = [
        {"name": name, "begins": _median(starts[name]), "takes": _median(durations[name])}
        for name in starts
    ]
    return sorted(stages, key=lambda stage: stage["begins"])


def _median(nanoseconds: Sequence[int]) -> float:
    return statistics.median(nanoseconds) / 1e3
