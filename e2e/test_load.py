"""The load program does what it says, on a small scale."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from e2e.load import report
from e2e.load.run import Settings, run


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
