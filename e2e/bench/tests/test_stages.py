"""The stage table: medians by RPC and stage, failed calls left out."""

from typing import Any

from e2e.bench import stages


def timeline(rpc: str, duration: int, *named: tuple[str, int, int], code: str = "OK") -> Any:
    items = [{"name": name, "start": start, "duration": took} for name, start, took in named]
    return {"rpc": rpc, "code": code, "duration": duration, "stages": items}


def test_stages_are_medians_in_the_order_of_their_starts() -> None:
    found = stages.summary([
        timeline("RunPodSandbox", 9000, ("attach", 5000, 3000), ("fork", 1000, 2000)),
        timeline("RunPodSandbox", 11000, ("attach", 7000, 5000), ("fork", 1000, 4000)),
        timeline("RunPodSandbox", 99000, ("attach", 1, 1), code="INTERNAL"),
        timeline("Version", 1),
    ])  # fmt: skip
    (run,) = found
    assert (run["rpc"], run["count"], run["microseconds"]) == ("RunPodSandbox", 2, 10)
    assert run["stages"] == [
        {"name": "fork", "begins": 1, "takes": 3},
        {"name": "attach", "begins": 6, "takes": 4},
    ]


def test_rpcs_come_in_the_order_of_a_pods_life() -> None:
    found = stages.summary([timeline("StopContainer", 1), timeline("RunPodSandbox", 1)])
    assert [entry["rpc"] for entry in found] == ["RunPodSandbox", "StopContainer"]
