"""Events follow from commits: each once, in order, with its pod; nobody waits for a reader."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from typing import TYPE_CHECKING

import pytest

from cri import events as module
from cri.api import api_pb2 as api
from cri.errors import LimitReached
from cri.events import Event, Events, Watcher, What
from cri.rpc.container_events import event_message
from cri.rpc.sandbox_status import pod_sandbox_status
from cri.store.container import ContainerState
from cri.store.sandbox import SandboxState
from cri.store.store import Store
from cri.tests.parts import parts
from cri.tests.records import container, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECOND = 10**9


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.time = 1000 * SECOND

    def __call__(self) -> int:
        return self.time


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    yield opened
    opened.close()


def ready(store: Store, name: str = "web") -> str:
    one = store.sandboxes.add(sandbox(name))
    store.sandboxes.update(one.id, lambda status: status.made(pid=1, ips=("10.0.0.1",)))
    return one.id


def move(store: Store, container_id: str, state: ContainerState) -> None:
    store.containers.update(container_id, lambda status: status.to(state))


def life(store: Store) -> tuple[str, str]:
    """All that happens to a pod with one container."""
    pod = ready(store)
    main = store.containers.add(container(pod)).id
    move(store, main, ContainerState.RUNNING)
    move(store, main, ContainerState.EXITED)
    store.sandboxes.update(pod, lambda status: status.to(SandboxState.NOTREADY))
    store.sandboxes.update(pod, lambda status: dataclasses.replace(status, stopped=True))
    store.containers.remove(main)
    store.sandboxes.remove(pod)
    return pod, main


async def read(watcher: Watcher, count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(10):
        async for event in watcher:
            found.append(event)
            if len(found) == count:
                break
    return found


async def read_all(events: Events, watcher: Watcher) -> list[Event]:
    events.close()
    return [event async for event in watcher]


async def test_a_pods_life_is_told_in_its_order(store: Store) -> None:
    events = Events(store)
    with events.watch() as watcher:
        pod, main = life(store)
        told = await read_all(events, watcher)
    assert [(event.what.name, event.subject) for event in told] == [
        ("CREATED", pod),
        ("STARTED", pod),
        ("CREATED", main),
        ("STARTED", main),
        ("STOPPED", main),
        ("STOPPED", pod),
        ("DELETED", main),
        ("DELETED", pod),
    ]
    times = [event.created_at for event in told]
    assert all(before < after for before, after in itertools.pairwise(times))


async def test_an_event_shows_the_pod_as_it_was_right_after_it(store: Store) -> None:
    events = Events(store)
    with events.watch() as watcher:
        pod, main = life(store)
        told = await read_all(events, watcher)
    seen = [
        (event.sandbox.status.state.name, [one.status.state.name for one in event.containers])
        for event in told
    ]
    assert seen == [
        ("READY", []),
        ("READY", []),
        ("READY", ["CREATED"]),
        ("READY", ["RUNNING"]),
        ("READY", ["EXITED"]),
        ("NOTREADY", ["EXITED"]),
        ("NOTREADY", []),
        ("NOTREADY", []),
    ]
    assert {event.sandbox.id for event in told} == {pod}
    assert {one.id for event in told for one in event.containers} == {main}


async def test_a_sandbox_that_is_being_made_is_not_spoken_of(store: Store) -> None:
    events = Events(store)
    with events.watch() as watcher:
        half = store.sandboxes.add(sandbox("half"))
        store.sandboxes.remove(half.id)
        left = store.sandboxes.add(sandbox("left"))  # what could not be undone is listed
        store.sandboxes.update(left.id, lambda status: status.to(SandboxState.NOTREADY))
        told = await read_all(events, watcher)
    assert [(event.what.name, event.subject) for event in told] == [
        ("CREATED", left.id),
        ("STOPPED", left.id),
    ]


async def test_a_change_that_is_none_of_state_is_no_event(store: Store) -> None:
    pod = ready(store)
    main = store.containers.add(container(pod)).id
    events = Events(store)
    with events.watch() as watcher:
        store.containers.update(main, lambda s: dataclasses.replace(s, stop_signalled=True))
        store.containers.amend(main, lambda one: one)
        store.sandboxes.update(pod, lambda status: dataclasses.replace(status, reason="x"))
        assert await read_all(events, watcher) == []


async def test_a_change_that_could_not_be_written_is_no_event(store: Store) -> None:
    pod = ready(store)
    events = Events(store)
    with events.watch() as watcher:
        store._database._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(Exception, match="readonly"):
            store.containers.add(container(pod))
        assert await read_all(events, watcher) == []


async def test_time_never_runs_backwards(store: Store, tmp_path: Path) -> None:
    clock = Clock()
    events = Events(store, clock)
    with events.watch() as watcher:
        ready(store, "a")
        clock.time -= 500 * SECOND
        ready(store, "b")
        status_at = events.now()
        told = await read(watcher, 4)
    times = [event.created_at for event in told]
    assert times == sorted(set(times))
    assert status_at > times[-1]


async def test_nor_does_it_in_the_next_daemon(store: Store) -> None:
    pod = ready(store)
    late = dataclasses.replace(container(pod).metadata, created_at=2**62)
    store.containers.add(dataclasses.replace(container(pod), metadata=late))
    assert Events(store, Clock()).now() > 2**62


async def test_every_watcher_is_told_everything(store: Store) -> None:
    events = Events(store)
    with events.watch() as first, events.watch() as second:
        life(store)
        one, two = await read(first, 8), await read(second, 8)
    assert one == two


async def test_who_waits_hears_at_once(store: Store) -> None:
    events = Events(store)
    with events.watch() as watcher:
        reading = asyncio.create_task(read(watcher, 2))
        await asyncio.sleep(0)
        assert not reading.done()
        pod = ready(store)
        assert [event.subject for event in await reading] == [pod, pod]


async def test_what_nobody_saw_waits_for_the_first_who_comes(store: Store) -> None:
    events = Events(store)
    pod = ready(store)
    with events.watch() as first, events.watch() as second:
        assert [event.subject for event in await read(first, 2)] == [pod, pod]
        assert await read_all(events, second) == []


async def test_what_waits_for_nobody_is_bounded_by_number(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    events = Events(store)
    life(store)
    with events.watch() as watcher:
        told = await read_all(events, watcher)
    assert [event.what.name for event in told] == ["STOPPED", "DELETED", "DELETED"]


async def test_what_waits_for_nobody_is_bounded_by_age(store: Store) -> None:
    clock = Clock()
    events = Events(store, clock)
    ready(store, "old")
    clock.time += (module.KEPT_SECONDS + 1) * SECOND
    young = ready(store, "young")
    with events.watch() as watcher:
        told = await read_all(events, watcher)
    assert {event.subject for event in told} == {young}


async def test_old_events_are_not_given_even_if_nothing_has_happened_since(store: Store) -> None:
    clock = Clock()
    events = Events(store, clock)
    ready(store)
    clock.time += (module.KEPT_SECONDS + 1) * SECOND
    with events.watch() as watcher:
        assert await read_all(events, watcher) == []


async def test_what_a_watcher_left_unread_is_for_the_next(store: Store) -> None:
    events = Events(store)
    with events.watch() as watcher:
        life(store)
        assert len(await read(watcher, 3)) == 3  # the third one it may not have got to its end
    with events.watch() as next_one:
        told = await read_all(events, next_one)
    assert len(told) == 6
    assert (told[0].what, told[-1].what) == (What.CREATED, What.DELETED)


async def test_a_slow_watcher_is_told_that_it_missed_something_and_others_miss_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    events = Events(store)
    with events.watch() as slow, events.watch() as quick:
        seen: list[Event] = []
        for _ in range(3):
            life(store)
            seen += await read(quick, 8)
            assert len(list(slow.unread())) <= 10
        with pytest.raises(LimitReached, match=r"too slow.*list sandboxes and containers"):
            await read(slow, 1)
    assert len(seen) == 24


async def test_a_watcher_that_is_overrun_while_it_reads_is_told_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    events = Events(store)
    with events.watch() as watcher:
        life(store)
        told = aiter(watcher)
        assert (await anext(told)).what is What.CREATED
        life(store)
        with pytest.raises(LimitReached):
            await anext(told)


async def test_there_is_an_end_to_how_many_watch(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WATCHERS", 1)
    events = Events(store)
    with events.watch(), pytest.raises(LimitReached, match="end one of them"), events.watch():
        pass
    with events.watch():
        pass


async def test_who_comes_when_the_daemon_stops_is_sent_home(store: Store) -> None:
    events = Events(store)
    events.close()
    with events.watch() as watcher:
        assert await read(watcher, 1) == []


async def test_of_two_containers_with_one_name_the_newest_is_told_first(tmp_path: Path) -> None:
    async with parts(tmp_path) as services:
        pod = ready(services.store)
        first = services.store.containers.add(container(pod)).id
        with services.events.watch() as watcher:
            second = services.store.containers.add(container(pod)).id
            *_, event = await read(watcher, 4)
        told = event_message(services, event)
        request = api.PodSandboxStatusRequest(pod_sandbox_id=pod)
        asked = await pod_sandbox_status(services, request)
    for message in (told, asked):
        assert [status.id for status in message.containers_statuses] == [second, first]


async def test_a_message_has_the_statuses_without_which_kubelet_drops_it(tmp_path: Path) -> None:
    async with parts(tmp_path) as services:
        pod, main = life(services.store)
        with services.events.watch() as watcher:
            told = [event_message(services, event) for event in await read(watcher, 8)]
    kinds = [message.container_event_type for message in told]
    assert kinds[3:5] == [api.CONTAINER_STARTED_EVENT, api.CONTAINER_STOPPED_EVENT]
    assert all(message.pod_sandbox_status.metadata.uid for message in told)
    assert [status.id for status in told[4].containers_statuses] == [main]
    assert told[4].containers_statuses[0].state == api.CONTAINER_EXITED
    assert (told[-1].container_id, told[-1].pod_sandbox_status.id) == (pod, pod)
    assert told[-1].pod_sandbox_status.state == api.SANDBOX_NOTREADY
