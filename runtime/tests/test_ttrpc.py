"""A conversation in ttrpc: the bytes of the protocol, and both ends talking over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.ttrpc.aio import Client, Server, converse, method, sender
from runtime.ttrpc.calls import Answer, Answering, Asking, Question, refusal, reply
from runtime.ttrpc.errors import CallFailed, Code, ConversationEnded, Violation
from runtime.ttrpc.ttrpc_pb2 import KeyValue, Request
from runtime.ttrpc.wire import MAX_DATA, Frame, Frames, Kind

ECHO = ("test.Echo", "Say")

# Request{service: "s", method: "m", payload: "p", timeout_nano: 1e9}, by the protocol's page
QUESTION = bytes.fromhex("0000000f 00000001 01 00 0a0173 12016d 1a0170 208094ebdc03")
# Response{status: {code: 5, message: "no"}}
REFUSAL = bytes.fromhex("00000008 00000001 02 00 0a06 0805 12026e6f")


def test_a_question_is_these_bytes() -> None:
    assert Asking().ask("s", "m", b"p", timeout=1.0) == (1, QUESTION)
    assert list(Answering().feed(QUESTION)) == [Question(1, "s", "m", b"p", 1.0)]


def test_an_answer_and_a_refusal_find_their_question() -> None:
    asking = Asking()
    assert [asking.ask("s", "m", b"")[0] for _ in range(2)] == [1, 3]
    (refused,) = asking.feed(REFUSAL)
    assert refused.stream == 1
    assert refused.failure is not None
    assert (refused.failure.code, str(refused.failure)) == (Code.NOT_FOUND, "no")
    assert list(asking.feed(reply(3, b"yes"))) == [Answer(3, b"yes")]
    assert list(asking.feed(reply(3, b"again"))) == []  # nobody waits for it


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 40))
def test_frames_survive_any_cut(messages: list[bytes], step: int) -> None:
    sent = b"".join(bytes(Frame(2 * n + 1, Kind.DATA, m)) for n, m in enumerate(messages))
    frames = Frames()
    got = [f.data for i in range(0, len(sent), step) for f in frames.feed(sent[i : i + step])]
    assert got == messages


@given(st.binary(max_size=200))
def test_garbage_is_a_violation_or_a_refusal_and_nothing_else(data: bytes) -> None:
    for end in (Asking(), Answering()):
        with contextlib.suppress(Violation):
            list(end.feed(data))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xff" * 10, "4294967295 bytes"),
        (bytes(Frame(1, Kind.RESPONSE, b"")), "kind 2"),
        (bytes(Frame(2, Kind.REQUEST, b"")), "stream 2"),
        (QUESTION + QUESTION, "stream 1 after 1"),
    ],
)
def test_what_a_server_does_not_take(data: bytes, word: str) -> None:
    with pytest.raises(Violation, match=word):
        list(Answering().feed(data))


def test_streams_and_nonsense_are_refused_without_ending_the_conversation() -> None:
    answering = Answering()
    sent = bytes(Frame(1, Kind.REQUEST, b"", flags=2)) + bytes(Frame(1, Kind.DATA, b"x"))
    sent += bytes(Frame(3, Kind.REQUEST, b"\xff\xff"))
    asking = Asking()
    asking.ask("s", "m", b"")
    asking.ask("s", "m", b"")
    answers = [a for data in answering.feed(sent) for a in asking.feed(_bytes(data))]
    assert [a.failure and a.failure.code for a in answers] == [
        Code.UNIMPLEMENTED,
        Code.INVALID_ARGUMENT,
    ]


def _bytes(said: Question | bytes) -> bytes:
    assert isinstance(said, bytes)
    return said


def test_messages_are_four_megabytes_at_most() -> None:
    with pytest.raises(ValueError, match="4194304 at most"):
        Asking().ask("s", "m", bytes(MAX_DATA))
    asking = Asking()
    stream, _ = asking.ask("s", "m", b"")
    (answer,) = asking.feed(reply(stream, bytes(MAX_DATA)))  # told, and not half sent
    assert answer.failure is not None
    assert answer.failure.code == Code.INTERNAL


@contextlib.asynccontextmanager
async def talking(
    say: Callable[[KeyValue], Awaitable[KeyValue]],
) -> AsyncIterator[tuple[Client, asyncio.Task[None]]]:
    """A client, and the server's task, which `say` answers."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    far_reader, far_writer = await asyncio.open_unix_connection(sock=theirs)
    client = Client(sender(writer))
    server = Server(sender(far_writer), {ECHO[0]: {ECHO[1]: method(KeyValue, say)}})
    serving = asyncio.create_task(converse(far_reader, server))
    asking = asyncio.create_task(converse(reader, client))
    try:
        yield client, serving
    finally:
        for task in (serving, asking):
            task.cancel()
        await asyncio.gather(serving, asking, return_exceptions=True)
        for end in (writer, far_writer):
            end.close()


async def shout(word: KeyValue) -> KeyValue:
    await asyncio.sleep(0.01 if word.key == "slow" else 0)
    return KeyValue(key=word.key, value=word.value.upper())


async def test_calls_overtake_each_other() -> None:
    async with talking(shout) as (client, _):
        words = [KeyValue(key=key, value=f"{key}{n}") for n in range(50) for key in ("slow", "x")]
        answers = await asyncio.gather(
            *(client.call(ECHO, word, KeyValue, patience=5) for word in words)
        )
    assert [a.value for a in answers] == [w.value.upper() for w in words]


async def test_a_refusal_is_raised_with_its_code_and_words() -> None:
    async def refuse(word: KeyValue) -> KeyValue:
        raise CallFailed(Code.NOT_FOUND, f"no {word.key}")

    async with talking(refuse) as (client, _):
        with pytest.raises(CallFailed, match="no thing") as caught:
            await client.call(ECHO, KeyValue(key="thing"), KeyValue, patience=5)
        assert caught.value.code == Code.NOT_FOUND
        with pytest.raises(CallFailed, match=r"no test\.Echo/Sing") as caught:
            await client.call(("test.Echo", "Sing"), KeyValue(), KeyValue, patience=5)
        assert caught.value.code == Code.UNIMPLEMENTED


async def test_a_bug_is_told_without_its_inside_and_the_next_call_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(word: KeyValue) -> KeyValue:
        if word.key == "bug":
            raise RuntimeError("secret")
        return word

    async with talking(fail) as (client, _):
        with pytest.raises(CallFailed, match="the log has it"):
            await client.call(ECHO, KeyValue(key="bug"), KeyValue, patience=5)
        assert await client.call(ECHO, KeyValue(key="ok"), KeyValue, patience=5) == KeyValue(
            key="ok"
        )
    assert "secret" in caplog.text


async def test_an_answer_that_comes_too_late_is_nobodys() -> None:
    async with talking(shout) as (client, _):
        with pytest.raises(TimeoutError):
            await client.call(ECHO, KeyValue(key="slow"), KeyValue, patience=0.002)
        await asyncio.sleep(0.02)
        answer = await client.call(ECHO, KeyValue(key="a", value="b"), KeyValue, patience=5)
        assert answer.value == "B"


async def test_whoever_waits_hears_that_the_other_end_is_gone() -> None:
    async def never(_word: KeyValue) -> KeyValue:
        await asyncio.Event().wait()
        raise AssertionError

    async with talking(never) as (client, serving):
        call = asyncio.create_task(client.call(ECHO, KeyValue(), KeyValue, patience=60))
        await asyncio.sleep(0.01)
        client.close("it was killed")
        with pytest.raises(ConversationEnded, match="it was killed"):
            await call
        with pytest.raises(ConversationEnded, match="it was killed"):
            await client.call(ECHO, KeyValue(), KeyValue, patience=60)
        assert not serving.done()


async def test_a_flood_waits_in_the_sender() -> None:
    """More questions than are answered at a time: the rest stay unread, none is lost."""
    at_once, most = 0, 0

    async def count(word: KeyValue) -> KeyValue:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1
        return word

    async with talking(count) as (client, _):
        calls = (client.call(ECHO, KeyValue(key=str(n)), KeyValue, patience=10) for n in range(500))
        assert [a.key for a in await asyncio.gather(*calls)] == [str(n) for n in range(500)]
    assert 1 < most <= 32


def test_a_refusal_of_any_length_fits() -> None:
    assert len(refusal(1, Code.INTERNAL, "x" * (2 * MAX_DATA))) < MAX_DATA


def test_a_request_may_carry_what_we_do_not_read() -> None:
    request = Request(service="s", method="m", metadata=[KeyValue(key="k", value="v")])
    sent = bytes(Frame(1, Kind.REQUEST, request.SerializeToString()))
    assert list(Answering().feed(sent)) == [Question(1, "s", "m", b"", 0.0)]
