"""Both ends of a conversation, as values: bytes in, questions and answers out. Reads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from runtime.ttrpc.errors import CallFailed, Code, Violation
from runtime.ttrpc.ttrpc_pb2 import Request, Response, Status
from runtime.ttrpc.wire import Frame, Frames, Kind


@dataclass(frozen=True, slots=True)
class Answer:
    """To the call of this stream: the method's message, or why there is none."""

    stream: int
    payload: bytes = b""
    failure: CallFailed | None = None


class Asking:
    """The client's end: hands out streams, and tells which call an answer belongs to."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._next = 1
        self._open: set[int] = set()

    def ask(
        self, service: str, method: str, payload: bytes, *, timeout: float = 0.0
    ) -> tuple[int, bytes]:
        """The call's stream, and what is to be sent. timeout: seconds, for the other end to know.

        Raises ValueError: the message is longer than MAX_DATA.
        """
        request = Request(
            service=service, method=method, payload=payload, timeout_nano=int(timeout * 1e9)
        )
        data = bytes(Frame(self._next, Kind.REQUEST, request.SerializeToString()))
        stream, self._next = self._next, self._next + 2
        self._open.add(stream)
        return stream, data

    def forget(self, stream: int) -> None:
        """Nobody waits for this answer any more."""
        self._open.discard(stream)

    def feed(self, data: bytes) -> Iterator[Answer]:
        """Answers to calls that somebody waits for. Raises Violation."""
        for frame in self._frames.feed(data):
            if frame.kind != Kind.RESPONSE:
                raise Violation(f"a frame of kind {frame.kind} where answers were expected")
            if frame.stream not in self._open:
                continue  # forgotten
            self._open.discard(frame.stream)
            yield _answer(frame)


def _answer(frame: Frame) -> Answer:
    try:
        response = Response.FromString(frame.data)
    except DecodeError as error:
        raise Violation(f"an answer that is no Response: {error}") from None
    if response.status.code != Code.OK:
        failure = CallFailed(response.status.code, response.status.message)
        return Answer(frame.stream, failure=failure)
    return Answer(frame.stream, response.payload)


@dataclass(frozen=True, slots=True)
class Question:
    """A call to be answered. timeout: seconds that the client waits, 0.0: any time."""

    stream: int
    service: str
    method: str
    payload: bytes
    timeout: float


class Answering:
    """The server's end."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._last = 0

    def feed(self, data: bytes) -> Iterator[Question | bytes]:
        """Questions; and bytes, which are to be sent: refusals of what is not done here.

        Raises Violation.
        """
        for frame in self._frames.feed(data):
            if frame.kind == Kind.DATA:
                continue  # of a stream that was refused
            if frame.kind != Kind.REQUEST:
                raise Violation(f"a frame of kind {frame.kind} where questions were expected")
            if frame.stream % 2 == 0 or frame.stream <= self._last:
                raise Violation(f"stream {frame.stream} after {self._last}: odd and rising")
            self._last = frame.stream
            yield _question(frame)


def _question(frame: Frame) -> Question | bytes:
    if frame.flags:
        return refusal(frame.stream, Code.UNIMPLEMENTED, "streams are not supported")
    try:
        request = Request.FromString(frame.data)
    except DecodeError as error:
        return refusal(frame.stream, Code.INVALID_ARGUMENT, f"no Request: {error}")
    timeout = max(request.timeout_nano, 0) / 1e9
    return Question(frame.stream, request.service, request.method, request.payload, timeout)


def reply(stream: int, payload: bytes) -> bytes:
    """What is to be sent when a call has worked; longer than MAX_DATA: that it has not."""
    try:
        response = Response(status=Status(), payload=payload)
        return bytes(Frame(stream, Kind.RESPONSE, response.SerializeToString()))
    except ValueError as error:
        return refusal(stream, Code.INTERNAL, str(error))


def refusal(stream: int, code: Code, text: str) -> bytes:
    """What is to be sent when a call has not worked."""
    response = Response(status=Status(code=code, message=text[:65536]))
    return bytes(Frame(stream, Kind.RESPONSE, response.SerializeToString()))
