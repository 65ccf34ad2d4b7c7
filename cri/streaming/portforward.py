"""Kubernetes' port forwarding: which bytes belong to which connection into the pod. Sans-IO.

A client asks for any number of connections over one session; each has a data stream and an error
stream. Over SPDY (protocol portforward.k8s.io) it opens both, in pairs that share a request id:

    SYN_STREAM streamtype: error   port: 8080   requestid: 7          client ──▶ us
    SYN_STREAM streamtype: data    port: 8080   requestid: 7
    DATA …, FIN            either way, each way ends by itself        client ◀─▶ pod
    DATA on the error stream: why there is no connection              client ◀── us

The oldest clients send no request id: there the data stream comes next after its error stream.
Over WebSocket see portforward_websocket.py. (k8s.io/kubelet/pkg/cri/streaming/portforward)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from cri.streaming import spdy, spdy_events
from cri.streaming.remotecommand import WireError

PROTOCOL = "portforward.k8s.io"


@dataclass(frozen=True, slots=True)
class Begun:
    """The first half of a pair is there; if the other does not come in time, `give_up` the pair."""

    connection: int


@dataclass(frozen=True, slots=True)
class Asked:
    """The client wants a connection to a port of the pod."""

    connection: int
    port: int


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes for the pod; they may come before the connection was asked for."""

    connection: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The client sends no more; it still reads."""

    connection: int


@dataclass(frozen=True, slots=True)
class Aborted:
    """The client gave the connection up, both ways."""

    connection: int


@dataclass(frozen=True, slots=True)
class Left:
    """The client has said goodbye: nothing that it asked for matters any more."""


Event = Begun | Asked | Sent | Ended | Aborted | Left


class ForwardWire(Protocol):
    """How connections travel in one session. Bytes in, events out; what to answer by `take`.

    A connection of which the client knows nothing (any more) can be ended in every way: nothing
    happens.
    """

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes say. Raises WireError: say goodbye then, and close."""

    def take(self) -> bytes:
        """What is to be sent next, once."""

    def frame(self, connection: int, payload: bytes) -> tuple[bytes, bytes] | None:
        """What to send for bytes from the pod: a header, and the payload as it travels.

        None: the client doesn't want them. Whatever `take` has goes first.
        """

    def end(self, connection: int) -> None:
        """The pod sends no more."""

    def fail(self, connection: int, text: str) -> None:
        """There is no connection, and this is why."""

    def break_off(self, connection: int) -> None:
        """The pod's end of a connection that was there is broken."""

    def give_up(self, connection: int) -> bool:
        """The other half of a pair has not come in time; False: it has."""

    @property
    def half_close(self) -> bool:
        """Whether each side of a connection can end by itself."""

    @property
    def over(self) -> bool:
        """Whether there is nothing more that a client could want of this session."""

    def close(self) -> None:
        """Say goodbye."""


@dataclass(slots=True)
class _Pair:
    number: int
    request: str
    data: int = 0  # id of its stream; 0: not there
    error: int = 0
    port: int = 0  # the data stream's counts
    ended: bool = False  # by the client, before its other half came


class SpdyForwarding:
    """Connections as pairs of SPDY streams. A `ForwardWire`."""

    def __init__(self, allowed: Collection[int] = ()) -> None:
        """allowed: ports that may be asked for; none: all."""
        self._allowed = frozenset(allowed)
        self._spdy = spdy.Connection()
        self._pairs: dict[int, _Pair] = {}  # by number
        self._requests: dict[str, _Pair] = {}
        self._streams: dict[int, _Pair] = {}
        self._numbers = 0
        self._status = spdy_events.GOAWAY_OK

    half_close = True
    over = False  # a client may always open the next stream

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        try:
            for event in self._spdy.receive(data):
                self._meant(event, events)
        except spdy_events.SpdyError as error:
            self._status = spdy_events.GOAWAY_PROTOCOL_ERROR
            raise WireError(f"SPDY: {error}") from error
        return events

    def take(self) -> bytes:
        return self._spdy.take()

    def frame(self, connection: int, payload: bytes) -> tuple[bytes, bytes] | None:
        pair = self._pairs.get(connection)
        if pair is None or not self._spdy.can_send(pair.data):
            return None
        return self._spdy.data_header(pair.data, len(payload)), payload

    def end(self, connection: int) -> None:
        """Also ends the error stream: there are clients that read it to its end before theirs."""
        if pair := self._pairs.get(connection):
            self._spdy.finish(pair.data)
            self._spdy.finish(pair.error)
            self._forget_if_done(pair)

    def fail(self, connection: int, text: str) -> None:
        if pair := self._pairs.get(connection):
            self._say(pair, text)
            self._spdy.finish(pair.data)
            self._forget(pair)

    def break_off(self, connection: int) -> None:
        """A reset, no text: kubectl ends the whole session when it reads an error."""
        if pair := self._pairs.get(connection):
            self._spdy.finish(pair.error)
            self._spdy.reset(pair.data, spdy_events.CANCEL)
            self._forget(pair)

    def give_up(self, connection: int) -> bool:
        pair = self._pairs.get(connection)
        if pair is None or (pair.data and pair.error):
            return False
        self._say(pair, "the other stream of this pair (data and error, one request id) is missing")
        self._spdy.reset(pair.data, spdy_events.CANCEL)
        self._forget(pair)
        return True

    def close(self) -> None:
        self._spdy.goaway(self._status)

    def _meant(self, event: spdy_events.Event, events: list[Event]) -> None:
        match event:
            case spdy_events.StreamOpened():
                self._opened(event, events)
            case spdy_events.DataReceived(stream_id, data, fin):
                pair = self._streams.get(stream_id)
                if pair is not None and stream_id == pair.data:
                    self._sent(pair, data, events, fin=fin)
            case spdy_events.StreamReset(stream_id):
                if pair := self._streams.get(stream_id):
                    self._reset(pair, stream_id, events)

    def _opened(self, opened: spdy_events.StreamOpened, events: list[Event]) -> None:
        kind = opened.headers.get("streamtype", "")
        port = _port(opened.headers.get("port", ""))
        request = opened.headers.get("requestid") or _request_of_old(opened.stream_id, kind)
        pair = self._requests.get(request)
        taken = pair is not None and (pair.data if kind == "data" else pair.error)
        if kind not in ("data", "error") or not port or taken:
            self._spdy.reset(opened.stream_id, spdy_events.PROTOCOL_ERROR)
            return
        self._spdy.reply(opened.stream_id)
        if pair is None:
            pair = self._begin(request)
            events.append(Begun(pair.number))
        self._streams[opened.stream_id] = pair
        if kind == "error":
            pair.error = opened.stream_id
        else:
            pair.data, pair.port, pair.ended = opened.stream_id, port, opened.fin
        if pair.data and pair.error:
            self._complete(pair, events)

    def _begin(self, request: str) -> _Pair:
        self._numbers += 1
        pair = _Pair(self._numbers, request)
        self._pairs[pair.number] = self._requests[request] = pair
        return pair

    def _complete(self, pair: _Pair, events: list[Event]) -> None:
        if self._allowed and pair.port not in self._allowed:
            ports = ", ".join(map(str, sorted(self._allowed)))
            events.append(Aborted(pair.number))
            self.fail(pair.number, f"port {pair.port} is not forwarded here: only {ports}")
            return
        events.append(Asked(pair.number, pair.port))
        if pair.ended:
            events.append(Ended(pair.number))

    def _sent(self, pair: _Pair, data: bytes, events: list[Event], *, fin: bool) -> None:
        if data:
            events.append(Sent(pair.number, data))
        if fin and pair.error:
            events.append(Ended(pair.number))
        pair.ended = pair.ended or fin
        self._forget_if_done(pair)

    def _reset(self, pair: _Pair, stream_id: int, events: list[Event]) -> None:
        """A client that is done with an error stream may drop it; without data there is nothing."""
        if stream_id == pair.error and pair.data:
            return
        events.append(Aborted(pair.number))
        self._spdy.finish(pair.error)
        self._forget(pair)

    def _say(self, pair: _Pair, text: str) -> None:
        if self._spdy.can_send(pair.error):
            said = text.encode(errors="replace")
            self._spdy.send(pair.error, said, fin=True)

    def _forget_if_done(self, pair: _Pair) -> None:
        if pair.ended and pair.error and not self._spdy.can_send(pair.data):
            self._forget(pair)

    def _forget(self, pair: _Pair) -> None:
        self._pairs.pop(pair.number, None)
        self._requests.pop(pair.request, None)
        self._streams.pop(pair.data, None)
        self._streams.pop(pair.error, None)


def _port(text: str) -> int:
    """A port's number; 0: that is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        return 0
    return int(text) if int(text) <= 65535 else 0


def _request_of_old(stream_id: int, kind: str) -> str:
    """Without request ids a pair is named after its error stream, which is opened just before."""
    return f"stream {stream_id - 2 if kind == 'data' else stream_id}"
