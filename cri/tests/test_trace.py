"""Timelines: stages are recorded inside an RPC, cost nothing outside, and can be found again."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc

import pytest

from cri import trace
from cri.trace import Recorder


def test_stages_are_told_relative_to_the_start_and_in_their_order() -> None:
    recorder = Recorder()
    with recorder.record("RunPodSandbox") as timeline:
        trace.about(sandbox_id="s1", subject="default/web")
        with trace.stage("outer"), trace.stage("inner"):
            pass
        trace.merge([("monitor", timeline.start + 5, 7)])
        timeline.finish("OK")
    told = json.loads(json.dumps(timeline.to_json()))
    assert [stage["name"] for stage in told["stages"]] == ["monitor", "outer", "inner"]
    assert told["stages"][0] == {"name": "monitor", "start": 5, "duration": 7}
    assert told["rpc"] == "RunPodSandbox"
    assert told["sandbox"] == "s1"
    assert told["subject"] == "default/web"
    assert told["code"] == "OK"
    assert told["duration"] >= sum(stage["duration"] for stage in told["stages"][1:2])


def test_a_stage_that_raises_is_recorded() -> None:
    recorder = Recorder()
    with recorder.record("StartContainer") as timeline:
        with pytest.raises(OSError, match="no"), trace.stage("mount"):
            raise OSError("no")
        timeline.finish("INTERNAL", "no")
    assert [name for name, _, _ in timeline.stages] == ["mount"]


def test_outside_of_an_rpc_nothing_is_recorded() -> None:
    with trace.stage("nowhere"):
        trace.merge([("x", 0, 1)])
        trace.about(sandbox_id="s")
    assert Recorder().recent() == ()


async def test_rpcs_that_run_at_a_time_have_their_own_stages() -> None:
    recorder = Recorder()

    async def rpc(name: str) -> None:
        with recorder.record(name) as timeline:
            with trace.stage(f"stage of {name}"):
                await asyncio.sleep(0)
            timeline.finish("OK")

    await asyncio.gather(rpc("a"), rpc("b"))
    assert {t.rpc: [s[0] for s in t.stages] for t in recorder.recent()} == {
        "a": ["stage of a"],
        "b": ["stage of b"],
    }


def test_probes_do_not_push_a_pods_start_out_of_memory() -> None:
    recorder = Recorder(lives=10, frequent=10)
    with recorder.record("RunPodSandbox") as start:
        trace.about(sandbox_id="s1")
        start.finish("OK")
    for _ in range(1000):
        with recorder.record("ExecSync") as probe:
            trace.about(sandbox_id="s1", container_id="c1")
            probe.finish("OK")
    assert recorder.of_sandbox("s1")[0] is start
    assert len(recorder.of_sandbox("s1")) == 11
    assert len(recorder.of_container("c1")) == 10
    assert [t.start for t in recorder.recent()] == sorted(t.start for t in recorder.recent())


def test_stages_that_come_after_the_end_are_not_recorded() -> None:
    recorder = Recorder()
    with recorder.record("StartContainer") as timeline:
        trace.merge([("init", 1, 2)])
        timeline.finish("OK")
        trace.merge([("late", 3, 4)])
    assert timeline.stages == [("init", 1, 2)]


def test_thousands_of_timelines_are_kept_in_little_memory() -> None:
    recorder = Recorder()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(4096):
        with recorder.record("StartContainer") as timeline:
            trace.about(sandbox_id=f"{number:064}", container_id=f"{number:064x}")
            names = "".join(["container init step"]).split()  # as from JSON: new objects each time
            trace.merge([(f"{names[0]} {n}", 10**15 + n, 10**6 + n) for n in range(15)])
            timeline.finish("OK")
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(recorder.recent(limit=10_000)) == 4096
    assert grown < 4096 * 1024


def test_one_under_way_is_seen_with_its_age() -> None:
    recorder = Recorder()
    with recorder.record("PullImage"):
        told = recorder.recent()[0].to_json()
        assert told["code"] == ""
        assert isinstance(told["duration"], int)
        assert 0 < told["duration"] < time.monotonic_ns()
