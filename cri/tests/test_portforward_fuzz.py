"""Port forwarding meets clients that do everything, in every order, and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import BytesMessage

from cri.streaming import spdy_events
from cri.streaming.portforward import Aborted, Begun, ForwardWire, Left, SpdyForwarding
from cri.streaming.portforward_websocket import BASE64, BINARY, Channels, Tunnel
from cri.streaming.remotecommand import WireError
from cri.tests.forward_sides import Browser, Client


class Play:
    """A client and a server between whom anything may happen."""

    def __init__(self) -> None:
        self.wire = SpdyForwarding([80])
        self.client = Client(self.wire)
        self.streams: list[int] = []
        self.said = b""

    def open(self, kind: str, port: str, request: str) -> None:
        self.streams.append(self.client.stream(kind, port, request))

    def data(self, number: int) -> None:
        if (stream := self.stream(number)) and self.client.spdy.can_send(stream):
            self.said = self.client.data(stream, b"x")

    def finish(self, number: int) -> None:
        self.client.spdy.finish(self.stream(number))

    def reset(self, number: int) -> None:
        self.client.spdy.reset(self.stream(number), spdy_events.CANCEL)

    def answer(self, number: int) -> None:
        self.client.hear(b"".join(self.wire.frame(number, b"y") or ()))

    def stream(self, number: int) -> int:
        return self.streams[number % len(self.streams)] if self.streams else 0


Turn = Callable[[Play], object]
streams = st.builds(
    lambda kind, port, request: lambda play: play.open(kind, port, request),
    st.sampled_from(["error", "data", "error", "data", "stdin", ""]),
    st.sampled_from(["80", "80", "80", "81", "0", "x", ""]),
    st.sampled_from(["", "1", "2"]),
)
of_clients = st.builds(
    lambda what, number: lambda play: getattr(play, what)(number),
    st.sampled_from(["data", "finish", "reset"]),
    st.integers(0, 7),
)
of_pods = st.builds(
    lambda what, number: lambda play: what(play, number),
    st.sampled_from(
        [
            lambda play, number: play.answer(number),
            lambda play, number: play.wire.end(number),
            lambda play, number: play.wire.fail(number, "no"),
            lambda play, number: play.wire.break_off(number),
            lambda play, number: play.wire.give_up(number),
        ]
    ),
    st.integers(1, 4),
)


@given(st.lists(st.one_of(streams, of_clients, of_pods), max_size=40))
def test_whatever_both_sides_do_in_whatever_order_they_understand_each_other(
    turns: Sequence[Turn],
) -> None:
    """No event for a connection before it has begun, none after it was aborted, no error at all."""
    play = Play()
    begun: set[int] = set()
    aborted: set[int] = set()
    for turn in turns:
        turn(play)
        said, play.said = play.said, b""
        for event in play.client.say(said):
            assert not isinstance(event, Left)
            assert event.connection not in aborted
            if isinstance(event, Begun):
                begun.add(event.connection)
            assert event.connection in begun
            if isinstance(event, Aborted):
                aborted.add(event.connection)
        play.client.hear()
    assert set(play.wire._pairs) <= begun - aborted


@given(st.binary(max_size=300), st.sampled_from([BINARY, BASE64, "tunnel"]))
def test_noise_over_websocket_is_an_error_or_means_something(noise: bytes, kind: str) -> None:
    wire: ForwardWire = Tunnel() if kind == "tunnel" else Channels(kind, [80])
    try:
        for at in range(0, len(noise), 7):
            wire.receive(noise[at : at + 7])
    except WireError:
        wire.close()
    assert len(wire.take()) < 1000


@given(st.lists(st.binary(max_size=40), max_size=20), st.sampled_from([BINARY, BASE64]))
def test_any_message_is_an_error_or_means_something(messages: list[bytes], kind: str) -> None:
    browser = Browser(Channels(kind, [80]))
    try:
        for message in messages:
            browser.say(BytesMessage(message))
    except WireError:
        assert kind == BASE64, "binary messages can't be wrong"
