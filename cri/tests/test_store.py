"""The store: readers see what was written, and what was written survives the daemon."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cri.api import api_pb2 as api
from cri.errors import (
    AmbiguousId,
    ContainerNotFound,
    SandboxNotFound,
    StateNotWritten,
    WrongState,
)
from cri.store.container import (
    Container,
    ContainerMetadata,
    ContainerState,
    ContainerStatus,
    container_name,
)
from cri.store.database import MIGRATIONS, Database, StateUnreadable
from cri.store.index import labels_match, new_id, resolve
from cri.store.sandbox import Sandbox, SandboxMetadata, SandboxState, SandboxStatus, sandbox_name
from cri.store.store import Store

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


def sandbox(name: str = "web", *, sandbox_id: str = "", attempt: int = 0, **labels: str) -> Sandbox:
    metadata = api.PodSandboxMetadata(name=name, namespace="default", uid="u", attempt=attempt)
    config = api.PodSandboxConfig(metadata=metadata, labels=labels, annotations={"a": "b"})
    return Sandbox(SandboxMetadata(sandbox_id or new_id(), netns_path="/run/netns/x"), config)


def container(
    sandbox_id: str, name: str = "main", *, container_id: str = "", **labels: str
) -> Container:
    config = api.ContainerConfig(
        metadata=api.ContainerMetadata(name=name),
        image=api.ImageSpec(image="busybox"),
        labels=labels,
        envs=[api.KeyValue(key="K", value=b"\xff")],
    )
    image_id = "sha256:" + "a" * 64
    made = ContainerMetadata(container_id or new_id(), sandbox_id, image_id, "busybox")
    return Container(made, config)


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


def test_nobody_else_may_read_what_containers_were_given(path: Path) -> None:
    """An environment holds passwords, and the directory may be open to all."""
    path.touch(mode=0o644)
    store = Store.open(path)
    modes = {name: (path.parent / name).stat().st_mode for name in os.listdir(path.parent)}
    store.close()
    assert {mode & 0o777 for mode in modes.values()} == {0o600}, modes


def test_what_was_written_survives_kill_9_without_closing(path: Path) -> None:
    program = """
import os, sys, pathlib
from cri.tests.test_store import Store, sandbox
store = Store.open(pathlib.Path(sys.argv[1]))
while True:
    print(store.sandboxes.add(sandbox()).id, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    told = [child.stdout.readline().decode().strip() for _ in range(300)]
    child.send_signal(signal.SIGKILL)
    told += child.stdout.read().decode().split("\n")
    child.wait()
    child.stdout.close()
    store = Store.open(path)
    whole = {line for line in told if len(line) == 64}
    assert whole <= {record.id for record in store.sandboxes}
    store.close()


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


def test_one_unreadable_record_does_not_keep_the_others_from_living(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(path)
    bad, worse, good = (store.sandboxes.add(sandbox(name)) for name in ("bad", "worse", "good"))
    store.close()
    connection = sqlite3.connect(path)
    connection.execute('UPDATE sandboxes SET status = \'{"state": "odd"}\' WHERE id = ?', (bad.id,))
    connection.execute("UPDATE sandboxes SET config = x'ffff' WHERE id = ?", (worse.id,))
    connection.commit()
    connection.close()
    again = Store.open(path)
    assert [record.id for record in again.sandboxes] == [good.id]
    for record in (bad, worse):
        assert f"sandboxes {record.id} can't be read" in caplog.text
    again.close()


def test_a_record_from_an_older_podwright_takes_the_defaults_for_what_it_lacks() -> None:
    assert SandboxStatus() == SandboxStatus(state=SandboxState.INITIALIZING, ips=(), stopped=False)


def test_a_database_of_a_newer_podwright_is_refused_and_left_alone(path: Path) -> None:
    Store.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateUnreadable, match=r"written by a newer podwright \(schema 99"):
        Store.open(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (99,)
    connection.close()


def test_an_older_database_is_migrated_and_keeps_its_records(path: Path) -> None:
    store = Store.open(path)
    web = store.sandboxes.add(sandbox())
    store.close()
    newer = (*MIGRATIONS, "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('hello');")
    database = Database.open(path, migrations=newer)
    assert [row[0] for row in database.rows("sandboxes")] == [web.id]
    database.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)
    assert connection.execute("SELECT text FROM notes").fetchall() == [("hello",)]
    connection.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(path: Path) -> None:
    Store.open(path).close()
    broken = (*MIGRATIONS, "CREATE TABLE half (x TEXT); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(StateUnreadable, match="no such table: nowhere"):
        Database.open(path, migrations=broken)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall()
    assert tables == []
    connection.close()


def test_a_file_that_is_no_database_is_told_with_a_remedy(path: Path) -> None:
    path.write_bytes(b"this is not SQLite" * 100)
    with pytest.raises(StateUnreadable, match=r"state\.db: file is not a database: .*move it away"):
        Store.open(path)


def fill(store: Store) -> None:
    """Add records for ever."""
    while True:
        store.sandboxes.add(sandbox())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
def test_a_full_disk_is_told_as_such_and_gives_the_state_back_when_it_has_room(
    tmp_path: Path,
) -> None:
    program = f"""
import pathlib
from cri.errors import StateDiskFull
from cri.tests.test_store import Store, fill, sandbox
disk = pathlib.Path({str(tmp_path)!r})
ballast = disk / "ballast"
ballast.write_bytes(bytes(300 * 1024))
store = Store.open(disk / "state.db")
web = store.sandboxes.add(sandbox())
try:
    fill(store)
except StateDiskFull as error:
    print(error)
before = len(store.sandboxes)
ballast.unlink()
store.sandboxes.add(sandbox())
store.close()
assert len(Store.open(disk / "state.db").sandboxes) == before + 1
"""
    mounted = f'mount -t tmpfs -o size=600k small {tmp_path} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted, "sh", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "database or disk is full: free some space" in done.stdout


def test_a_change_that_can_not_be_written_is_not_seen(store: Store, path: Path) -> None:
    web = store.sandboxes.add(sandbox())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
    try:
        with pytest.raises(StateNotWritten, match=r"state\.db: "):
            fill(store)
        with pytest.raises(StateNotWritten):
            store.sandboxes.update(web.id, lambda s: s.to(SandboxState.READY))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert store.sandboxes.get(web.id).status.state is SandboxState.INITIALIZING
    store.sandboxes.update(web.id, lambda s: s.to(SandboxState.READY))


async def test_the_wal_is_written_back_while_the_daemon_runs(path: Path) -> None:
    store = Store.open(path)
    web = store.sandboxes.add(sandbox())
    wal = path.with_name("state.db-wal")
    largest = 0
    for round_ in range(5):
        for number in range(1000):
            ips = (f"10.0.{round_}.{number}",)
            store.sandboxes.update(web.id, functools.partial(dataclasses.replace, ips=ips))
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        largest = max(largest, wal.stat().st_size)
    assert largest < 2.5 * 1000 * (4096 + 24)
    store.close()
