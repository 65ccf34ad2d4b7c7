"""Remote command over SPDY: a stream a channel, named by its header `streamType`. Sans-IO."""

from __future__ import annotations

from cri.streaming.remotecommand import (
    SUFFIX,
    Channel,
    Event,
    Input,
    InputEnded,
    Left,
    Opened,
    Sizes,
    Wanted,
    WireError,
    version_of,
)
from cri.streaming.spdy import Connection
from cri.streaming.spdy_events import (
    CANCEL,
    REFUSED_STREAM,
    DataReceived,
    SpdyError,
    StreamOpened,
    StreamReset,
)
from cri.streaming.spdy_events import (
    Event as SpdyEvent,
)

PROTOCOLS = (*(f"v{version}.{SUFFIX}" for version in (4, 3, 2)), SUFFIX, f"v1.{SUFFIX}")
_CHANNELS = {channel.name.lower(): channel for channel in Channel}


class SpdyWire:
    """The channels of one SPDY connection, after its upgrade. A `Wire`.

    Opened when the client has made every stream that the RPC asked for, and the error stream. What
    else it makes is taken and passed over, as Kubernetes does.
    """

    def __init__(self, protocol: str, wanted: Wanted) -> None:
        """protocol: one of PROTOCOLS, or "" if the client named none."""
        self._version = version_of(protocol)
        self._connection = Connection()
        self._missing = _expected(wanted, self._version)
        self._streams: dict[Channel, int] = {}
        self._channels: dict[int, Channel] = {}
        self._sizes = Sizes()
        self._input_ended = False

    @property
    def version(self) -> int:
        return self._version

    def receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        try:
            for event in self._connection.receive(data):
                self._understand(event, events)
        except SpdyError as error:
            raise WireError(f"SPDY: {error}") from None
        return events

    def take(self) -> bytes:
        return self._connection.take()

    def frame(self, channel: Channel, payload: memoryview) -> tuple[bytes, bytes | memoryview]:
        """Nothing at all for a stream that the client has given up."""
        stream_id = self._streams.get(channel, 0)
        if not self._connection.can_send(stream_id):
            return b"", b""
        return self._connection.data_header(stream_id, len(payload)), payload

    def end(self, channel: Channel) -> None:
        self._connection.finish(self._streams.get(channel, 0))

    def close(self) -> None:
        self._connection.goaway()

    def _understand(self, event: SpdyEvent, events: list[Event]) -> None:
        match event:
            case StreamOpened():
                self._open(event, events)
            case DataReceived():
                channel = self._channels.get(event.stream_id)
                if channel is Channel.RESIZE:
                    events += self._sizes.feed(event.data)
                if channel is Channel.STDIN and event.data and not self._input_ended:
                    events.append(Input(event.data))
                if channel is Channel.STDIN and event.fin:
                    self._end_input(events)
            case StreamReset():
                channel = self._channels.pop(event.stream_id, None)
                if channel is Channel.STDIN:
                    self._end_input(events)
                elif channel is Channel.ERROR:
                    events.append(Left())  # nobody wants to know how it ends
            case _:
                pass  # a GOAWAY: it opens no more streams, and closes the connection when it likes

    def _open(self, event: StreamOpened, events: list[Event]) -> None:
        channel = _CHANNELS.get(event.headers.get("streamtype", "").lower())
        if channel is None:
            self._connection.reset(event.stream_id, REFUSED_STREAM)
            return
        if channel in self._streams:
            self._connection.reset(event.stream_id, CANCEL)
            return
        self._connection.reply(event.stream_id)
        if channel not in self._missing:
            if channel not in (Channel.STDIN, Channel.RESIZE):
                self._connection.finish(event.stream_id)
            return
        self._streams[channel] = event.stream_id
        self._channels[event.stream_id] = channel
        self._missing.discard(channel)
        if not self._missing:
            events.append(Opened())
        if channel is Channel.STDIN and event.fin:
            self._end_input(events)

    def _end_input(self, events: list[Event]) -> None:
        if not self._input_ended:
            self._input_ended = True
            events.append(InputEnded())


def _expected(wanted: Wanted, version: int) -> set[Channel]:
    """The streams without which a command does not begin."""
    expected = {Channel.ERROR, *wanted.outputs}
    if wanted.stdin:
        expected.add(Channel.STDIN)
    if wanted.terminal and version >= 3:
        expected.add(Channel.RESIZE)
    return expected
