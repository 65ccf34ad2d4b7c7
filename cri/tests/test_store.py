"""The store: readers see what was written, by id, name and filter, and may wait for a change."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import pytest

from cri.api import api_pb2 as api
from cri.errors import (
    AmbiguousId,
    ContainerNotFound,
    SandboxNotFound,
    WrongState,
)
from cri.store.container import (
    Container,
    ContainerState,
    ContainerStatus,
    container_name,
)
from cri.store.index import labels_match, resolve
from cri.store.sandbox import SandboxState, SandboxStatus, sandbox_name
from cri.store.store import Store
from cri.tests.records import container, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path)
    yield opened
    opened.close()


def test_records_survive_closing_and_opening(path: Path) -> None:
    store = Store.open(path)
    web = store.sandboxes.add(sandbox())
    ready = store.sandboxes.update(
        web.id, lambda s: dataclasses.replace(s.to(SandboxState.READY), ips=("10.0.0.1", "fd::1"))
    )
    main = store.containers.add(container(web.id))
    running = store.containers.update(
        main.id,
        lambda s: dataclasses.replace(s.to(ContainerState.RUNNING), pid=7, groups=(1, 2)),
    )
    store.close()
    again = Store.open(path)
    assert again.sandboxes.all() == (ready,)
    assert again.containers.all() == (running,)
    assert again.containers.get(main.id).config.envs[0].value == b"\xff"
    again.close()


def test_ids_may_be_cut_short_as_long_as_they_name_one(store: Store) -> None:
    one = store.sandboxes.add(sandbox(sandbox_id="ab" + "0" * 62))
    store.sandboxes.add(sandbox(sandbox_id="ac" + "0" * 62))
    assert store.sandboxes.get("ab") is one
    assert store.sandboxes.find("b") is None
    assert store.sandboxes.find("") is None
    with pytest.raises(AmbiguousId, match="'a' is the beginning of 2 ids"):
        store.sandboxes.get("a")
    with pytest.raises(SandboxNotFound, match="no sandbox with id 'ff'"):
        store.sandboxes.get("ff")
    with pytest.raises(ContainerNotFound):
        store.containers.get("")


def test_an_id_that_is_the_beginning_of_another_names_itself() -> None:
    assert resolve("ab", {"ab", "abc"}) == "ab"


def test_labels_match_when_all_wanted_ones_are_there() -> None:
    assert labels_match({"a": "1", "b": "2"}, {"a": "1"})
    assert labels_match({"a": "1"}, {})
    assert not labels_match({"a": "1"}, {"a": "2"})
    assert not labels_match({}, {"a": ""})


def test_a_name_finds_its_record_until_that_is_removed(store: Store) -> None:
    one = store.sandboxes.add(sandbox("web"))
    other = store.sandboxes.add(sandbox("web", attempt=1))
    assert store.sandboxes.named(sandbox_name(one.config.metadata)) is one
    assert store.sandboxes.named(sandbox_name(other.config.metadata)) is other
    store.sandboxes.remove(one.id)
    assert store.sandboxes.named(one.name) is None
    main = store.containers.add(container(other.id))
    assert store.containers.named(container_name(other.id, main.config.metadata)) is main


def test_removing_an_old_record_does_not_take_the_name_from_a_new_one(store: Store) -> None:
    old = store.sandboxes.add(sandbox("web"))
    new = store.sandboxes.add(sandbox("web"))
    store.sandboxes.remove(old.id)
    assert store.sandboxes.named(new.name) is new
    store.sandboxes.remove(old.id)  # gone already: fine


def test_transitions_that_can_not_be_are_refused_and_change_nothing(store: Store) -> None:
    web = store.sandboxes.add(sandbox())
    store.sandboxes.update(web.id, lambda s: s.to(SandboxState.NOTREADY))
    with pytest.raises(WrongState, match="a sandbox that is notready can't become ready"):
        store.sandboxes.update(web.id, lambda s: s.to(SandboxState.READY))
    assert store.sandboxes.get(web.id).status.state is SandboxState.NOTREADY
    exited = ContainerStatus(ContainerState.EXITED)
    with pytest.raises(WrongState, match="a container that is exited can't become running"):
        exited.to(ContainerState.RUNNING)


def test_sandboxes_are_selected_by_id_state_and_labels(store: Store) -> None:
    hidden = store.sandboxes.add(sandbox("hidden"))
    a = store.sandboxes.add(sandbox("a", sandbox_id="a" * 64, app="x", tier="1"))
    b = store.sandboxes.add(sandbox("b", sandbox_id="b" * 64, app="x"))
    a = store.sandboxes.update(a.id, lambda s: s.to(SandboxState.READY))
    b = store.sandboxes.update(b.id, lambda s: s.to(SandboxState.NOTREADY))
    select = store.sandboxes.select
    assert select(api.PodSandboxFilter()) == [a, b]
    assert select(api.PodSandboxFilter(id="aaa")) == [a]
    assert select(api.PodSandboxFilter(id="f")) == []
    assert select(api.PodSandboxFilter(id=hidden.id)) == []
    ready = api.PodSandboxStateValue(state=api.SANDBOX_READY)
    assert select(api.PodSandboxFilter(state=ready)) == [a]
    assert select(api.PodSandboxFilter(label_selector={"app": "x"})) == [a, b]
    assert select(api.PodSandboxFilter(label_selector={"app": "x", "tier": "1"})) == [a]
    assert select(api.PodSandboxFilter(id="b", label_selector={"tier": "1"})) == []


def test_containers_are_selected_by_id_sandbox_state_and_labels(store: Store) -> None:
    a = store.containers.add(container("1" * 64, "a", container_id="a" * 64, app="x"))
    b = store.containers.add(container("2" * 64, "b", container_id="b" * 64, app="y"))
    b = store.containers.update(b.id, lambda s: s.to(ContainerState.RUNNING))
    select = store.containers.select
    assert select(api.ContainerFilter()) == [a, b]
    assert select(api.ContainerFilter(id="a")) == [a]
    assert select(api.ContainerFilter(pod_sandbox_id="22")) == [b]
    assert select(api.ContainerFilter(pod_sandbox_id="3")) == []
    running = api.ContainerStateValue(state=api.CONTAINER_RUNNING)
    assert select(api.ContainerFilter(state=running)) == [b]
    created = api.ContainerStateValue(state=api.CONTAINER_CREATED)
    assert select(api.ContainerFilter(state=created, label_selector={"app": "x"})) == [a]
    assert store.containers.of_sandbox("1" * 64) == (a,)


def test_an_ambiguous_id_in_a_filter_matches_nothing(store: Store) -> None:
    store.containers.add(container("1" * 64, "a", container_id="a1" + "0" * 62))
    store.containers.add(container("1" * 64, "b", container_id="a2" + "0" * 62))
    assert store.containers.select(api.ContainerFilter(id="a")) == []


def test_the_prepared_items_joined_are_the_list_response(store: Store) -> None:
    web = store.sandboxes.add(sandbox("web", app="x"))
    store.sandboxes.update(web.id, lambda s: s.to(SandboxState.READY))
    store.sandboxes.add(sandbox("db"))
    listed = api.ListPodSandboxResponse.FromString(b"".join(s.listed for s in store.sandboxes))
    assert [item.metadata.name for item in listed.items] == ["web", "db"]
    assert listed.items[0].state == api.SANDBOX_READY
    assert listed.items[0].labels == {"app": "x"}
    store.containers.add(container(web.id))
    containers = api.ListContainersResponse.FromString(store.containers.all()[0].listed).containers
    assert containers[0].pod_sandbox_id == web.id
    assert containers[0].image.image == "busybox"
    assert containers[0].image_id == containers[0].image_ref == "sha256:" + "a" * 64


async def test_waiting_ends_when_the_condition_is_met(store: Store) -> None:
    main = store.containers.add(container("1" * 64))

    def exited(record: Container) -> bool:
        return record.status.state is ContainerState.EXITED

    waiting = asyncio.create_task(store.containers.until(main.id, exited))
    await asyncio.sleep(0)
    store.containers.update(main.id, lambda s: s.to(ContainerState.RUNNING))
    await asyncio.sleep(0)
    assert not waiting.done()
    store.containers.update(main.id, lambda s: s.to(ContainerState.EXITED))
    assert (await waiting).status.state is ContainerState.EXITED


async def test_waiting_ends_when_the_record_is_removed(store: Store) -> None:
    main = store.containers.add(container("1" * 64))
    waiting = asyncio.create_task(store.containers.until(main.id, lambda _: False))
    await asyncio.sleep(0)
    store.containers.remove(main.id)
    with pytest.raises(ContainerNotFound):
        await waiting


def test_an_update_that_changes_nothing_writes_nothing(store: Store) -> None:
    web = store.sandboxes.add(sandbox())
    assert store.sandboxes.update(web.id, lambda s: dataclasses.replace(s)) is web


def test_a_record_from_an_older_podwright_takes_the_defaults_for_what_it_lacks() -> None:
    assert SandboxStatus() == SandboxStatus(state=SandboxState.INITIALIZING, ips=(), stopped=False)
