"""The daemon's side of a monitor: ask, and be told of exits. asyncio; one connection a pod."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from runtime.codec import decode, encode
from runtime.errors import MonitorLost, MonitorSilent
from runtime.linux import fds
from runtime.linux.fds import Message
from runtime.monitor.failures import exception_of
from runtime.monitor.messages import WORDS, ContainerExit, Exec, Failure, Keep, Request

T = TypeVar("T")
OnExit = Callable[[ContainerExit], None]
OnLost = Callable[[], None]


class MonitorClient:
    """Talks to one monitor over a connected SEQPACKET socket, which it owns.

    on_exit: called for each container that ends; on_lost: once, when the connection breaks
    without our having closed it. Both in the event loop.
    """

    def __init__(self, connection: socket.socket, on_exit: OnExit, on_lost: OnLost) -> None:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._connection = connection
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._read)
        self._open = True
        self._sending = asyncio.Lock()  # one may wait until the socket is writable
        self._writable: asyncio.Future[None] | None = None

    def keep(self) -> None:
        """Tells a new monitor that it is known, and to live on whatever becomes of us."""
        with contextlib.suppress(OSError):
            fds.send(self._connection, {"id": 0, "do": WORDS[Keep]})

    async def ask(
        self,
        request: Request,
        answer: type[T],
        descriptors: Sequence[int] = (),
        *,
        patience: float | None = 60.0,
    ) -> T:
        """Sends a request and waits for its answer; a Failure is raised as what it names."""
        number = next(self._numbers)
        message = {"id": number, "do": WORDS[type(request)], **_fields(request)}
        future: asyncio.Future[Message] = self._loop.create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(patience):
                await self._send(message, descriptors)
                reply = await future
        except asyncio.CancelledError:
            if isinstance(request, Exec):
                self._abandon(number)
            raise
        except TimeoutError:
            if isinstance(request, Exec):
                self._abandon(number)
            text = f"the pod's monitor has not answered {message['do']!r} within {patience:g} s"
            raise MonitorSilent(text) from None
        finally:
            self._waiting.pop(number, None)
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen: the connection may have ended while we were sending
        if "failed" in reply:
            raise exception_of(decode(Failure, reply["failed"], path="failed"))
        return decode(answer, reply["ok"], path="ok")

    def close(self) -> None:
        """Lets go of the monitor; it lives on."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
            self._connection.close()
            self._wake()
            self._fail_waiting("the connection was closed")

    def _abandon(self, exec_id: int) -> None:
        with contextlib.suppress(OSError):
            fds.send(self._connection, {"id": 0, "do": "abandon", "exec_id": exec_id})

    async def _send(self, message: Mapping[str, object], descriptors: Sequence[int]) -> None:
        async with self._sending:
            while not self._try_to_send(message, descriptors):
                await self._until_writable()

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
        self._loop.add_writer(self._connection, self._wake)
        try:
            await self._writable
        finally:
            self._writable = None
            if self._open:
                self._loop.remove_writer(self._connection)

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
        fds.close_all(descriptors)
        if message.get("event") == "exit":
            self._on_exit(decode(ContainerExit, message, path="exit"))
        else:
            future = self._waiting.get(cast("int", message.get("id")))
            if future is not None and not future.done():
                future.set_result(message)

    def _lost(self) -> None:
        if self._open:
            self.close()
            self._on_lost()

    def _fail_waiting(self, text: str) -> None:
        error = MonitorLost(text)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)


def _fields(request: Request) -> Message:
    return cast(Message, encode(request))
