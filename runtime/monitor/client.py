"""The daemon's side of a monitor: ask, and be told of exits. asyncio; one connection a pod."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

from runtime.codec import decode, encode
from runtime.errors import MonitorLost, MonitorSilent, RuntimeFault
from runtime.linux import fds
from runtime.linux.fds import Message
from runtime.monitor.failures import exception_of
from runtime.monitor.messages import (
    EXITS_DIRECTORY,
    WORDS,
    Abandon,
    Attach,
    ContainerExit,
    Done,
    Dump,
    EndInput,
    Exec,
    ExecStream,
    Failure,
    Keep,
    Pause,
    Request,
    Resize,
)

T = TypeVar("T")
Packet = tuple[Message, list[int]]
OnExit = Callable[[ContainerExit], None]
OnLost = Callable[[], None]
_ABANDONED = (Exec, ExecStream, Attach, Pause, Dump)  # what goes on until its end, or until then
PATIENCE = 60.0
LINGER = 10.0  # seconds for what was given up while it began to be gone


class Conversation:
    """Something that was asked of a monitor, and the packets that come back."""

    def __init__(self, client: MonitorClient, number: int, request: Request) -> None:
        self.number = number
        self.request = request
        self._client = client
        self._heard: asyncio.Queue[Packet | MonitorLost] = asyncio.Queue()
        self._over = False  # the last word has been said
        self._told_over: Callable[[], None] | None = None
        self.sent = False

    def hear(self, packet: Packet | MonitorLost) -> None:
        self._heard.put_nowait(packet)
        if isinstance(packet, MonitorLost) or "open" not in packet[0]:
            self._over = True
            if self._told_over is not None:
                self._told_over()

    def when_over(self, told: Callable[[], None]) -> None:
        """Nobody else listens any more."""
        self._told_over = told
        if self._over:
            told()

    async def begun(self, opened: type[T]) -> tuple[T, list[int]]:
        """It has begun: what was said, and the descriptors, which are the caller's."""
        message, descriptors = await self._next()
        try:
            _raise_failure(message)
            return decode(opened, message["open"], path="open"), descriptors
        except BaseException:
            fds.close_all(descriptors)
            raise

    async def ended(self, answer: type[T]) -> T:
        """The last word. A failure is raised as what it names."""
        message, descriptors = await self._next()
        fds.close_all(descriptors)
        _raise_failure(message)
        return decode(answer, message["ok"], path="ok")

    def end_input(self) -> None:
        """Of an attachment or a command: the client has no more input."""
        if isinstance(self.request, (Attach, ExecStream)):
            self._client.tell(EndInput(self.number))

    def resize(self, width: int, height: int) -> None:
        """Of a terminal whose master we have not been given."""
        self._client.tell(Resize(self.number, width, height))

    def abandon(self) -> None:
        """Of what lasts: nobody wants it any more; its last word comes yet."""
        if isinstance(self.request, _ABANDONED):
            self._client.tell(Abandon(self.number))

    def close(self) -> None:
        """What comes after this is passed over."""
        while not self._heard.empty():
            packet = self._heard.get_nowait()
            if not isinstance(packet, MonitorLost):
                fds.close_all(packet[1])

    async def _next(self) -> Packet:
        packet = await self._heard.get()
        if isinstance(packet, MonitorLost):
            self._heard.put_nowait(packet)  # it stays lost
            raise packet
        return packet


class MonitorClient:
    """Talks to one monitor over a connected SEQPACKET socket, which it owns.

    on_exit: called for each container that ends; on_lost: once, when the connection breaks
    without our having closed it; on_sandbox_end: when what a shim had made of the pod has ended by
    itself: a report says why. All in the event loop.
    """

    def __init__(
        self,
        connection: socket.socket,
        on_exit: OnExit,
        on_lost: OnLost,
        on_sandbox_end: OnLost = lambda: None,
    ) -> None:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._connection = connection
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._on_sandbox_end = on_sandbox_end
        self._numbers = itertools.count(1)
        self._talks: dict[int, Conversation] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._read)
        self._open = True
        self._sending = asyncio.Lock()  # one may wait until the socket is writable
        self._writable: asyncio.Future[None] | None = None
        self._untold: deque[Message] = deque()  # what `tell` could not send at once

    def keep(self) -> None:
        """Tells a new monitor that it is known, and to live on whatever becomes of us."""
        self.tell(Keep())

    def tell(self, request: Request) -> None:
        """Sends what is never answered; when there is room, if the monitor is busy."""
        if self._open:
            self._untold.append({"id": 0, "do": WORDS[type(request)], **_fields(request)})
            self._tell_rest()

    def _tell_rest(self) -> None:
        while self._untold:
            try:
                fds.send(self._connection, self._untold[0])
            except BlockingIOError:
                self._loop.add_writer(self._connection, self._on_writable)
                return
            except OSError:  # it is gone, which the reader notices
                self._untold.clear()
                return
            self._untold.popleft()

    async def ask(
        self,
        request: Request,
        answer: type[T],
        descriptors: Sequence[int] = (),
        *,
        patience: float | None = PATIENCE,
    ) -> T:
        """Sends a request and waits for its answer; a Failure is raised as what it names."""
        with self._talk(request) as talk, _patient(request, patience):
            async with asyncio.timeout(patience):
                await self._send(talk, descriptors)
                return await talk.ended(answer)

    async def descriptors(self, request: Request, opened: type[T]) -> tuple[T, list[int]]:
        """Sends a request that is answered with descriptors, the caller's to close."""
        with self._talk(request) as talk, _patient(request, PATIENCE):
            async with asyncio.timeout(PATIENCE):
                await self._send(talk, ())
                return await talk.begun(opened)

    @contextlib.asynccontextmanager
    async def lasting(self, request: Request, opened: type[T]) -> AsyncGenerator[T, None]:
        """Inside, the request has begun; at the end it is abandoned, and has ended then."""
        with self._talk(request) as talk:
            with _patient(request, PATIENCE):
                async with asyncio.timeout(PATIENCE):
                    await self._send(talk, ())
                    said, descriptors = await talk.begun(opened)
            fds.close_all(descriptors)
            try:
                yield said
            finally:
                talk.abandon()
                with contextlib.suppress(RuntimeFault, TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        await talk.ended(Done)

    async def open(
        self,
        request: ExecStream | Attach,
        opened: type[T],
        descriptors: Sequence[int],
        keep: Callable[[], Callable[[], None]],
    ) -> tuple[T, list[int], Conversation]:
        """Begins what lasts, until `ended` of the conversation; `release` it then.

        Answers what was said, and descriptors that are the caller's. If it is given up meanwhile
        it has to be killed, and must not end by itself before, at an input that has ended or an
        output that nobody reads: then what it left behind would not be found. So what `keep`
        answers, once asked, is called when it has gone.
        """
        talk = Conversation(self, next(self._numbers), request)
        with self._undoing(talk, keep), _patient(request, PATIENCE):
            async with asyncio.timeout(PATIENCE):
                await self._send(talk, descriptors)
                said, received = await talk.begun(opened)
        return said, received, talk

    def release(self, talk: Conversation) -> None:
        """Forgets a conversation. Idempotent."""
        self._talks.pop(talk.number, None)
        talk.close()

    def close(self) -> None:
        """Lets go of the monitor; it lives on."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
            self._connection.close()
            self._untold.clear()
            self._wake()
            for talk in tuple(self._talks.values()):
                talk.hear(MonitorLost("the connection to the pod's monitor has ended"))

    @contextlib.contextmanager
    def _talk(self, request: Request) -> Iterator[Conversation]:
        """A conversation, while inside."""
        talk = Conversation(self, next(self._numbers), request)
        with self._undoing(talk):
            yield talk
        self.release(talk)

    @contextlib.contextmanager
    def _undoing(
        self, talk: Conversation, keep: Callable[[], Callable[[], None]] | None = None
    ) -> Iterator[None]:
        """Listens from here on; after a failure no longer. Given up, the monitor is told."""
        self._talks[talk.number] = talk
        try:
            yield
        except BaseException as error:
            if isinstance(error, (asyncio.CancelledError, MonitorSilent)):
                talk.abandon()
                if keep is not None and talk.sent:
                    self._let_end(talk, keep())
                    raise
            self.release(talk)
            raise

    def _let_end(self, talk: Conversation, gone: Callable[[], None]) -> None:
        def over() -> None:
            timer.cancel()
            self.release(talk)
            gone()

        timer = self._loop.call_later(LINGER, over)
        talk.when_over(over)

    async def _send(self, talk: Conversation, descriptors: Sequence[int]) -> None:
        word = WORDS[type(talk.request)]
        message = {"id": talk.number, "do": word, **_fields(talk.request)}
        async with self._sending:
            while not self._try_to_send(message, descriptors):
                await self._until_writable()
            talk.sent = True

    def _try_to_send(self, message: Mapping[str, object], descriptors: Sequence[int]) -> bool:
        if not self._open:
            raise MonitorLost("the monitor is gone")
        try:
            fds.send(self._connection, message, descriptors)
        except BlockingIOError:
            return False
        except OSError as error:
            raise MonitorLost(f"the monitor is gone: {error.strerror}") from error
        return True

    async def _until_writable(self) -> None:
        """Returns as well when the connection is closed."""
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._connection, self._on_writable)
        try:
            await self._writable
        finally:
            self._writable = None

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._connection)
        self._tell_rest()
        self._wake()

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _read(self) -> None:
        try:
            received = fds.receive(self._connection)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None:
            self._lost()
            return
        message, descriptors = received
        if message.get("event") == "exit":
            fds.close_all(descriptors)
            self._on_exit(decode(ContainerExit, message, path="exit"))
            return
        if message.get("event") == "sandbox-end":
            self._on_sandbox_end()
            return
        talk = self._talks.get(cast("int", message.get("id")))
        if talk is None:
            fds.close_all(descriptors)
        else:
            talk.hear((message, descriptors))

    def _lost(self) -> None:
        if self._open:
            self.close()
            self._on_lost()


def exits(directory: Path) -> tuple[ContainerExit, ...]:
    """The exits that a monitor, now dead, had written down. directory: its own. Blocks."""
    paths = sorted((directory / EXITS_DIRECTORY).glob("*.json"))
    return tuple(decode(ContainerExit, json.loads(path.read_bytes())) for path in paths)


@contextlib.contextmanager
def _patient(request: Request, patience: float | None) -> Iterator[None]:
    """MonitorSilent where the time is up."""
    try:
        yield
    except TimeoutError:
        word = WORDS[type(request)]
        text = f"the pod's monitor has not answered {word!r} within {patience:g} s"
        raise MonitorSilent(text) from None


def _raise_failure(message: Message) -> None:
    if "failed" in message:
        raise exception_of(decode(Failure, message["failed"], path="failed"))


def _fields(request: Request) -> Message:
    return cast(Message, encode(request))
