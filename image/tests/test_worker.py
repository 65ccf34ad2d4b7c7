"""Worker processes: their messages, how many there are, and when they go."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image import errors
from image.digest import Digest
from image.errors import ImageFault, RegistryDenied, StorageFull, UnsupportedImage
from image.manifest import Platform
from image.registry.credentials import Credentials
from image.settings import RegistrySettings, UnpackLimits
from image.tests import build
from image.tests.build import app
from image.tests.conftest import OpenStore
from image.tests.registry import FakeRegistry
from image.tests.test_kill import workers_of
from image.unpack import Result
from image.unpack.apply import Attributes
from image.worker.messages import (
    LENGTH,
    Failed,
    Measure,
    Measured,
    Message,
    Occupancy,
    Progress,
    Remote,
    Resolve,
    Resolved,
    Settle,
    Settled,
    Source,
    Unpack,
    Unpacked,
    decode,
    encode,
)

ONE = Digest.of(b"1")
REMOTE = Remote("a:1", Credentials("u", "p"), RegistrySettings(), {"http://x": "Bearer t"}, ("y",))
RESULT = Result(5, 6, Attributes(0o755, 1, 2), True, (b"a", b"\xff"), ((b"l", b"t"),))
MESSAGES: list[Message] = [
    Resolve(REMOTE, Platform("linux", "amd64", "v3"), "/content"),
    Resolved(ONE, ONE, {}, ()),
    Unpack("w", "/t", ONE, None, 7, Source("/f", 0, 7), None, "", UnpackLimits()),
    Unpack("w", "/t", ONE, ONE, 7, None, REMOTE, "/content", UnpackLimits()),
    Unpacked(RESULT),
    Unpacked(Result(0, 0, None, False)),
    Settle("/t", RESULT, ("/a", "/b"), 3),
    Settled(),
    Measure(("/a", "/b")),
    Measured((Occupancy(5, 6, True, 7, 0.5), None)),
    Progress(1, 2, 3),
    Failed("StorageFull", ("/x", "why")),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_arrive_as_they_were_sent(message: Message) -> None:
    frame = encode(message)
    assert LENGTH.unpack(frame[: LENGTH.size])[0] == len(frame) - LENGTH.size
    assert decode(frame[LENGTH.size :]) == message


@given(st.sampled_from(MESSAGES), st.data())
def test_no_message_breaks_the_daemon(message: Message, data: st.DataObject) -> None:
    shape = json.loads(encode(message)[LENGTH.size :])
    fields = sorted(shape[1])
    if fields:
        junk = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.none(), max_size=2)
        shape[1][data.draw(st.sampled_from(fields))] = data.draw(junk)
    try:
        decode(json.dumps(shape).encode())
    except ValueError:
        return


@pytest.mark.parametrize(
    "error",
    [RegistryDenied("no", True), StorageFull("/x", "why"), UnsupportedImage("it"), ImageFault("x")],
)
def test_errors_cross_the_border_whole(error: ImageFault) -> None:
    failed = decode(encode(Failed.of(error))[LENGTH.size :])
    assert isinstance(failed, Failed)
    again = failed.error()
    assert (type(again), again.args, str(again)) == (type(error), error.args, str(error))


def test_every_error_can_cross() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, ImageFault):
            count = kind.__init__.__code__.co_argcount - 1 if "__init__" in vars(kind) else 1
            error = kind(*["x"] * count)
            assert type(error)(*error.args).args == error.args
            assert str(error)


def test_foreign_errors_keep_their_text() -> None:
    assert str(Failed.of(ZeroDivisionError("z")).error()) == "ZeroDivisionError: z"
    assert isinstance(Failed("os", ()).error(), ImageFault)


@pytest.mark.root
async def test_workers_are_kept_for_the_next_pull(
    open_store: OpenStore, fake_registry: FakeRegistry
) -> None:
    store = await open_store(parallel_layers=2)
    await store.pull(fake_registry.add(app(b"1"), "a", "1"))
    first = workers_of(os.getpid())
    assert 1 <= len(first) <= 2
    await store.pull(fake_registry.add(app(b"2"), "b", "1"))
    assert set(workers_of(os.getpid())) >= set(first)


@pytest.mark.root
async def test_idle_workers_go(open_store: OpenStore, fake_registry: FakeRegistry) -> None:
    store = await open_store(idle_seconds=0.1)
    await store.pull(fake_registry.add(app(), "a", "1"))
    async with asyncio.timeout(20):
        for pid in workers_of(os.getpid()):
            await gone(pid)
    assert workers_of(os.getpid()) == []


async def gone(pid: int) -> None:
    """Wait for the end of a process."""
    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, ended.cancel)
    try:
        await asyncio.wait((ended,))
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


@pytest.mark.root
async def test_no_more_layers_are_unpacked_at_a_time_than_allowed(
    open_store: OpenStore, fake_registry: FakeRegistry
) -> None:
    store = await open_store(parallel_layers=2)
    built = build.image(*(build.tar(build.file(str(number))) for number in range(6)))
    await store.pull(fake_registry.add(built, "a", "1"))
    assert len(workers_of(os.getpid())) <= 2


@pytest.mark.root
async def test_nothing_private_stands_in_arguments_or_environment(
    open_store: OpenStore, fake_registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hidden-value")
    fake_registry.auth = "basic"
    store = await open_store()
    await store.pull(fake_registry.add(app(), "a", "1"), Credentials("alice", "secret"))
    for pid in workers_of(os.getpid()):
        for name in ("cmdline", "environ"):
            data = Path(f"/proc/{pid}/{name}").read_bytes()  # noqa: ASYNC240 - /proc
            assert b"secret" not in data
            assert b"hidden-value" not in data
