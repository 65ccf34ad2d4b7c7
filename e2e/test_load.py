"""The load program does what it says, on a small scale."""

from __future__ import annotations

import io
from typing import Any

import grpc
from rich.console import Console

from cri.cli.client import CallFailed
from e2e.load import report
from e2e.load.run import Settings, run
from e2e.load.samples import Samples, quantile


def test_a_quantile_is_a_value_that_was_measured() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0
    assert quantile([7.0], 0.99) == 7.0


def test_a_call_that_fails_is_late_and_has_no_time() -> None:
    samples = Samples(seconds=[0.5, 1.5])
    with samples.timed():
        raise CallFailed("not now", grpc.StatusCode.UNAVAILABLE)
    assert samples.later_than(1.0) == 2
    assert samples.document()["failures"] == {"not now": 1}
    assert samples.document()["calls"] == 2


def test_a_small_load_is_carried_and_leaves_nothing() -> None:
    told: Any = run(Settings(pods=2, seconds=2, lives=4, parallel=2))
    standing, lives = told["standing"], told["lives"]
    assert told["left"] == []
    calls = standing["calls"]
    assert [what for what, call in calls.items() if call.get("failures")] == []
    assert calls["ExecSync"]["calls"] >= 5
    assert calls["ListPodSandbox"]["calls"] >= 2
    assert calls["a container replaced"]["calls"] >= 1
    assert 0 < standing["cores"]["daemon"] < 2
    assert standing["held"]["monitors"]["pss"] > 0
    assert lives["life"]["failures"] == {}
    assert lives["held"]["after"]["daemon"]["tasks"] > 0
    assert lives["held"]["after"]["spawner"]["descriptors"] > 0
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(report.table(told))
    assert "left behind" in console.export_text()
