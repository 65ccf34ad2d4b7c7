"""Whose writable layer is counted when."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from cri import writable
from cri.store.container import ContainerState
from cri.writable import FAILED_SECONDS, PATIENCE, PAUSE, ROUND_SECONDS, Schedule
from image.errors import WorkerLost
from image.writable import Occupancy

if TYPE_CHECKING:
    import pytest

    from cri.rpc.services import Services


def test_every_running_container_has_its_turn_again_and_again() -> None:
    schedule = Schedule()
    assert schedule.due(["a", "b"], [], 0) == ["a", "b"]
    schedule.taken({"a": 0.0, "b": 0.0}, [], 0)
    assert schedule.due(["a", "b", "c"], [], ROUND_SECONDS - 1) == ["c"]
    assert schedule.due(["a", "b"], [], ROUND_SECONDS) == ["a", "b"]


def test_a_slow_walk_is_repeated_less_often() -> None:
    schedule = Schedule()
    schedule.taken({"slow": 3.0, "quick": 0.001}, [], 0)
    assert schedule.due(["slow", "quick"], [], ROUND_SECONDS) == ["quick"]
    assert schedule.due(["slow"], [], PATIENCE * 3.0 - 1) == []
    assert schedule.due(["slow"], [], PATIENCE * 3.0) == ["slow"]


def test_a_long_round_is_followed_by_a_long_pause() -> None:
    assert Schedule().taken({"a": 0.01, "b": 0.01}, [], 0) == ROUND_SECONDS
    assert Schedule().taken({"a": 1.0, "b": 2.0}, [], 0) == PAUSE * 3.0


def test_who_has_ended_has_one_more_turn() -> None:
    schedule = Schedule()
    schedule.taken({"a": 0.0}, [], 0)
    assert schedule.due([], ["a"], ROUND_SECONDS) == ["a"]
    schedule.taken({"a": 0.0}, ["a"], ROUND_SECONDS)
    assert schedule.due([], ["a"], 1000) == []


def test_who_is_gone_is_forgotten() -> None:
    schedule = Schedule()
    schedule.taken({"a": 1000.0}, [], 0)
    assert schedule.due([], [], 1) == []
    assert schedule.due(["a"], [], 2) == ["a"]


def test_after_a_failure_the_others_do_not_wait() -> None:
    schedule = Schedule()
    schedule.failed(["a", "b"], 0)
    assert schedule.due(["a", "b", "c"], [], ROUND_SECONDS) == ["c"]
    assert schedule.due(["a", "b", "c"], [], FAILED_SECONDS) == ["a", "b", "c"]


@dataclass(slots=True)
class Writable:
    """Takes what it is asked to, or fails."""

    error: Exception | None = None
    taken: list[list[str]] = field(default_factory=list)

    async def take(self, containers: list[str]) -> None:
        self.taken.append(containers)
        if self.error:
            raise self.error

    def find(self, container_id: str) -> Occupancy | None:
        return None if container_id == "removed" else Occupancy(1, 1, True, 1, 2.0)


def services(counting: Writable, **states: ContainerState) -> Services:
    """Containers by name and state; nothing else is looked at."""
    containers = [
        SimpleNamespace(id=name, status=SimpleNamespace(state=state))
        for name, state in states.items()
    ]
    store = SimpleNamespace(containers=SimpleNamespace(all=lambda: containers))
    made = SimpleNamespace(store=store, images=SimpleNamespace(writable=counting))
    return cast("Services", made)


async def test_a_turn_takes_those_that_run_or_have_ended() -> None:
    counting = Writable()
    parts = services(
        counting,
        created=ContainerState.CREATED,
        running=ContainerState.RUNNING,
        ended=ContainerState.EXITED,
        removed=ContainerState.EXITED,
    )
    schedule = Schedule()
    assert await writable.turn(parts, schedule) == PAUSE * 4.0
    assert counting.taken == [["running", "ended", "removed"]]
    assert await writable.turn(parts, schedule) == ROUND_SECONDS
    assert len(counting.taken) == 1  # nobody's turn: no worker is started


async def test_a_failure_is_told_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    counting = Writable(WorkerLost("killed by signal 9"))
    parts = services(counting, running=ContainerState.RUNNING)
    schedule = Schedule()
    assert await writable.turn(parts, schedule) == ROUND_SECONDS
    assert "what 1 containers have written could not be counted: killed" in caplog.text
    assert await writable.turn(parts, schedule) == ROUND_SECONDS
    assert len(counting.taken) == 1
