"""Both ends for asyncio. What carries the bytes is the owner's: it gives a `send`, and feeds what
it reads. `converse` does so for a socket's pair of streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from runtime.ttrpc.calls import Answer, Answering, Asking, Question, refusal, reply
from runtime.ttrpc.errors import CallFailed, Code, ConversationEnded

log = logging.getLogger(__name__)

Send = Callable[[bytes], Awaitable[None]]
_READ = 65536
_AT_ONCE = 32  # questions of one client that are answered at a time; then its bytes have to wait

In = TypeVar("In", bound=Message)
Out = TypeVar("Out", bound=Message)


class Client:
    """Asks."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._asking = Asking()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._ended: ConversationEnded | None = None

    async def call(
        self, method: tuple[str, str], request: Message, answer: type[Out], *, patience: float
    ) -> Out:
        """method: service (with its package) and name; patience: seconds.

        Raises CallFailed: the other end's answer; TimeoutError; ConversationEnded: it is gone, or
        has answered nonsense; ValueError: the request is longer than ttrpc takes.
        """
        if self._ended is not None:
            raise self._ended
        stream, data = self._asking.ask(*method, request.SerializeToString(), timeout=patience)
        future = asyncio.get_running_loop().create_future()
        self._waiting[stream] = future
        try:
            async with asyncio.timeout(patience):
                await self._send(data)
                payload = await future
        finally:
            del self._waiting[stream]
            self._asking.forget(stream)
        try:
            return answer.FromString(payload)
        except DecodeError as error:
            raise ConversationEnded(f"{method[1]} was answered with nonsense: {error}") from None

    def feed(self, data: bytes) -> None:
        """What came from the other end. Raises Violation: close it."""
        for answer in self._asking.feed(data):
            _settle(self._waiting[answer.stream], answer)

    def close(self, reason: str) -> None:
        """Whoever waits hears ConversationEnded, and so does whoever asks later."""
        self._ended = self._ended or ConversationEnded(reason)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._ended)


def _settle(future: asyncio.Future[bytes], answer: Answer) -> None:
    if future.done():  # cancelled in this very turn of the loop
        return
    if answer.failure is not None:
        future.set_exception(answer.failure)
    else:
        future.set_result(answer.payload)


Method = Callable[[bytes], Awaitable[Message]]
"""A request's bytes to the answer's message."""


def method(asked: type[In], answer: Callable[[In], Awaitable[Message]]) -> Method:
    """asked: the request's type; answer: raises CallFailed to choose the client's error."""

    async def parse_and_answer(payload: bytes) -> Message:
        try:
            request = asked.FromString(payload)
        except DecodeError as error:
            raise CallFailed(Code.INVALID_ARGUMENT, f"no {asked.__name__}: {error}") from None
        return await answer(request)

    return parse_and_answer


class Server:
    """Answers. services: by name with package, and then the methods by name."""

    def __init__(self, send: Send, services: Mapping[str, Mapping[str, Method]]) -> None:
        self._send = send
        self._services = services
        self._answering = Answering()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._busy: set[asyncio.Task[None]] = set()

    async def feed(self, data: bytes) -> None:
        """Returns when there is room for more. Raises Violation: close it."""
        for question in self._answering.feed(data):
            if isinstance(question, bytes):
                await self._send(question)
                continue
            await self._room.acquire()
            task = asyncio.create_task(self._answer(question))
            self._busy.add(task)
            task.add_done_callback(self._done)

    async def close(self) -> None:
        """Gives up what is being answered."""
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self._room.release()

    async def _answer(self, question: Question) -> None:
        try:
            said = reply(question.stream, await self._ask(question))
        except CallFailed as failure:
            said = refusal(question.stream, Code(failure.code), failure.text)
        except Exception:
            log.exception("%s/%s", question.service, question.method)
            text = f"{question.method}: an internal error; the log has it"
            said = refusal(question.stream, Code.INTERNAL, text)
        with contextlib.suppress(ConversationEnded, OSError):  # nobody is there to hear it
            await self._send(said)

    async def _ask(self, question: Question) -> bytes:
        found = self._services.get(question.service, {}).get(question.method)
        if found is None:
            text = f"there is no {question.service}/{question.method} here"
            raise CallFailed(Code.UNIMPLEMENTED, text)
        return (await found(question.payload)).SerializeToString()


async def converse(reader: asyncio.StreamReader, end: Client | Server) -> None:
    """Feeds `end` until the other end closes; then closes it. Raises Violation and OSError."""
    reason = "the other end closed the connection"
    try:
        while data := await reader.read(_READ):
            if isinstance(end, Client):
                end.feed(data)
            else:
                await end.feed(data)
    except (ConversationEnded, OSError) as error:
        reason = str(error)
        raise
    finally:
        if isinstance(end, Client):
            end.close(reason)
        else:
            await end.close()


def sender(writer: asyncio.StreamWriter) -> Send:
    """A `send` for a stream's writer, which waits while the other end does not read."""

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    return send
