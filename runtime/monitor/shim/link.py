"""Calls to a shim, over a connection that the monitor's loop watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from runtime.errors import RuntimeFault
from runtime.linux.fds import Socket
from runtime.ttrpc.calls import Answer, Asking
from runtime.ttrpc.errors import CallFailed, Code, Violation

if TYPE_CHECKING:
    from runtime.monitor.loop import Loop, Timer

SERVICES: Mapping[int, str] = {2: "containerd.task.v2.Task", 3: "containerd.task.v3.Task"}
_READ_BYTES = 65536
_MOST_TEXT = 2048  # characters of what a shim says: it becomes a gRPC status, of a few KiB at most
_MOST_UNREAD = 16 * 1024 * 1024  # bytes of requests that a shim doesn't read: it never will

T = TypeVar("T", bound=Message)
OnAnswer = Callable[[T], None]
OnFailure = Callable[[RuntimeFault], None]


class TookTooLong(RuntimeFault):
    """A call that the shim has not answered in time."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    hear: Callable[[bytes], None]
    fail: OnFailure
    timer: Timer | None


class Link:
    """The task service of one shim. on_end: told once, with the reason, after everyone who waits;
    not told of `close`."""

    def __init__(
        self, loop: Loop, peer: Socket, service: str, on_end: Callable[[str], None]
    ) -> None:
        """peer: connected; owned."""
        peer.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._loop = loop
        self._peer = peer
        self._service = service
        self._on_end = on_end
        self._asking = Asking()
        self._waiting: dict[int, _Waiting] = {}
        self._unsent = bytearray()
        self._open = True
        loop.watch(peer.fileno(), self._serve)

    def call(
        self,
        method: str,
        request: Message,
        answer: type[T],
        told: tuple[OnAnswer[T], OnFailure],
        *,
        patience: float = 0.0,
    ) -> int:
        """method: of the task service, or of another, by its name: "service/method"; told: who gets
        the answer, and who the failure: CallFailed in the shim's words,
        TookTooLong, or whatever ended the connection; never from within this call. patience:
        seconds, 0.0: for ever. The number of the call, for `forget`.
        """
        hear, fail = told
        if not self._open:
            self._loop.after(0, lambda: fail(RuntimeFault("the shim is gone")))
            return 0
        payload = request.SerializeToString()
        service, _, method = method.rpartition("/")
        service = service or self._service
        stream, data = self._asking.ask(service, method, payload, timeout=patience)

        def parse(answered: bytes) -> None:
            try:
                found = answer.FromString(answered)
            except DecodeError as error:
                fail(CallFailed(Code.INTERNAL, f"{method} was answered with nonsense: {error}"))
            else:
                hear(found)

        def time_out() -> None:
            self.forget(stream)
            fail(TookTooLong(f"{method} was not answered within {patience:g} s"))

        timer = self._loop.after(patience, time_out) if patience else None
        self._waiting[stream] = _Waiting(parse, fail, timer)
        self._unsent += data
        self._send()
        return stream

    def forget(self, stream: int) -> None:
        """Nobody wants to hear the answer any more."""
        self._asking.forget(stream)
        waiting = self._waiting.pop(stream, None)
        if waiting is not None and waiting.timer is not None:
            waiting.timer.cancel()

    def close(self) -> None:
        """Whoever waits hears nothing."""
        if self._open:
            self._open = False
            self._loop.unwatch(self._peer.fileno())
            self._peer.close()
            for stream in tuple(self._waiting):
                self.forget(stream)

    def _serve(self) -> None:
        if self._unsent:
            self._send()
        try:
            data = self._peer.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        if not data:
            self._end("it has closed the connection")
            return
        try:
            for answer in self._asking.feed(data):
                self._hear(answer)
        except Violation as error:
            self._end(str(error))

    def _hear(self, answer: Answer) -> None:
        waiting = self._waiting.pop(answer.stream)
        if waiting.timer is not None:
            waiting.timer.cancel()
        if answer.failure is not None:
            failure = answer.failure
            waiting.fail(CallFailed(failure.code, failure.text[:_MOST_TEXT]))
        else:
            waiting.hear(answer.payload)

    def _send(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            if len(self._unsent) > _MOST_UNREAD:
                self._loop.after(0, lambda: self._end("it reads no requests"))
        except OSError as error:
            reason = error.strerror or str(error)
            self._loop.after(0, lambda: self._end(reason))
        if self._open:
            self._loop.watch_room(self._peer.fileno(), wanted=bool(self._unsent))

    def _end(self, reason: str) -> None:
        if not self._open:
            return
        waiting = tuple(self._waiting.values())
        self.close()
        for one in waiting:
            one.fail(RuntimeFault(f"the shim is gone: {reason}"))
        self._on_end(reason)


def gone(error: RuntimeFault) -> bool:
    """What was asked for is not there any more."""
    return isinstance(error, CallFailed) and error.code == Code.NOT_FOUND


def nobody(_answer: object) -> None:
    """Waits for this answer, or for this failure."""
