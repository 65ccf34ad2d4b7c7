"""Remote command over WebSocket, without sockets: wsproto's client says it, we understand it."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

from cri.streaming.remotecommand import (
    Channel,
    Event,
    Input,
    InputEnded,
    Left,
    Opened,
    Resized,
    Wanted,
    WireError,
)
from cri.streaming.websocket import PROTOCOLS, WebSocketWire

ALL = Wanted(terminal=False, stdin=True, stdout=True, stderr=True)
TERMINAL = Wanted(terminal=True, stdin=True, stdout=True, stderr=False)


def started(protocol: str = "v5.channel.k8s.io", wanted: Wanted = ALL) -> WebSocketWire:
    """A wire that has said hello."""
    wire = WebSocketWire(protocol, wanted)
    assert wire.receive(b"") == [Opened()]
    wire.take()
    return wire


def client() -> Connection:
    return Connection(ConnectionType.CLIENT)


def heard(data: bytes) -> list[tuple[type, bytes | str]]:
    """What a client makes of bytes of ours."""
    peer = client()
    peer.receive_data(data)
    events = list(peer.events())
    assert all(isinstance(event, Message) and event.message_finished for event in events)
    return [(type(event), event.data) for event in events if isinstance(event, Message)]


def sent(wire: WebSocketWire, channel: Channel, payload: bytes) -> bytes:
    header, body = wire.frame(channel, memoryview(payload))
    return header + body


def all_input(events: list[Event]) -> bytes:
    return b"".join(bytes(event.data) for event in events if isinstance(event, Input))


def test_the_first_messages_are_empty_one_for_each_output() -> None:
    hello = heard(WebSocketWire("v4.channel.k8s.io", ALL).take())
    assert hello == [(BytesMessage, b"\1"), (BytesMessage, b"\2")]
    assert heard(WebSocketWire("", TERMINAL).take()) == [(BytesMessage, b"\1")]
    text = WebSocketWire("base64.channel.k8s.io", ALL).take()
    assert heard(text) == [(TextMessage, "1"), (TextMessage, "2")]
    silent = Wanted(terminal=False, stdin=True, stdout=False, stderr=False)
    assert heard(WebSocketWire("", silent).take()) == [(BytesMessage, b"\3")]


@pytest.mark.parametrize("length", [0, 1, 124, 125, 126, 65534, 65535, 65536, 300_000])
def test_output_of_any_length_arrives_whole(length: int) -> None:
    payload = b"x" * length
    assert heard(sent(started(), Channel.STDOUT, payload)) == [(BytesMessage, b"\1" + payload)]
    text = heard(sent(started("v4.base64.channel.k8s.io"), Channel.ERROR, payload))
    assert text == [(TextMessage, "3" + base64.b64encode(payload).decode())]


def test_a_payload_travels_without_being_copied() -> None:
    payload = memoryview(b"payload")
    assert started().frame(Channel.STDOUT, payload)[1] is payload


def test_input_comes_as_bytes_as_text_and_as_base64() -> None:
    peer = client()
    binary = started()
    assert binary.receive(peer.send(BytesMessage(b"\0abc"))) == [Input(b"abc")]
    assert binary.receive(peer.send(TextMessage("\0ü"))) == [Input("ü".encode())]
    coded = started("v5.base64.channel.k8s.io")
    assert coded.receive(peer.send(TextMessage("0" + "YWJj"))) == [Input(b"abc")]
    assert coded.receive(peer.send(BytesMessage(b"0YWJj"))) == [Input(b"abc")]


def test_the_close_signal_of_version_5_ends_the_input_once() -> None:
    peer = client()
    wire = started()
    assert wire.receive(peer.send(BytesMessage(b"\xff\0"))) == [InputEnded()]
    assert wire.receive(peer.send(BytesMessage(b"\xff\0"))) == []
    assert wire.receive(peer.send(BytesMessage(b"\0late"))) == []
    coded = started("v5.base64.channel.k8s.io")
    assert coded.receive(peer.send(TextMessage("/AA=="))) == [InputEnded()]


def test_before_version_5_there_is_no_close_signal() -> None:
    assert started("v4.channel.k8s.io").receive(client().send(BytesMessage(b"\xff\0"))) == []


def test_a_size_may_be_cut_anywhere_and_two_may_come_at_once() -> None:
    peer = client()
    wire = started(wanted=TERMINAL)
    text = json.dumps({"Width": 80, "Height": 24}).encode() + b"\n"
    assert wire.receive(peer.send(BytesMessage(b"\4" + text[:9]))) == []
    assert wire.receive(peer.send(BytesMessage(b"\4" + text[9:] + text))) == [Resized(80, 24)] * 2


@pytest.mark.parametrize(
    "size", ["{}", "{nonsense}", '{"Width":-1,"Height":2}', '{"Width":1e9,"Height":2}', "x" * 5000]
)
def test_a_size_that_is_none_is_an_error(size: str) -> None:
    with pytest.raises(WireError, match="resize channel"):
        started(wanted=TERMINAL).receive(client().send(TextMessage("\4" + size)))


def test_what_nobody_has_asked_for_is_passed_over() -> None:
    peer = client()
    quiet = Wanted(terminal=False, stdin=False, stdout=True, stderr=False)
    for message in (b"\0in", b"\1out", b"\3err", b"\4{", b"\x09x", b"", b"\xff\0", b"\xff"):
        assert started(wanted=quiet).receive(peer.send(BytesMessage(message))) == []


def test_a_ping_is_answered_and_a_goodbye_returned() -> None:
    peer = client()
    wire = started()
    assert wire.receive(peer.send(Ping(b"there?"))) == []
    peer.receive_data(wire.take())
    assert list(peer.events()) == [Pong(b"there?")]
    assert wire.receive(peer.send(CloseConnection(1000))) == [Left()]
    wire.close()
    peer.receive_data(wire.take())
    assert [type(event) for event in peer.events()] == [CloseConnection]


def test_base64_that_is_none_is_an_error() -> None:
    for text in ("0****", "0YWJ", "0YWJjY"):
        with pytest.raises(WireError, match="base64"):
            started("base64.channel.k8s.io").receive(client().send(TextMessage(text)))


@given(st.sampled_from(PROTOCOLS), st.binary(max_size=400), st.lists(st.integers(0, 600)))
def test_where_the_network_cuts_does_not_matter(
    protocol: str, payload: bytes, cuts: list[int]
) -> None:
    peer = client()
    coded = "base64" in protocol
    text = "0" + base64.b64encode(payload).decode()
    stream = peer.send(TextMessage(text) if coded else BytesMessage(b"\0" + payload))
    stream += peer.send(Ping(b"p"))
    wire = started(protocol)
    events: list[Event] = []
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(stream)], strict=True):
        events += wire.receive(stream[begin:end])
    assert all_input(events) == payload
    assert wire.take() != b""


@given(st.sampled_from(PROTOCOLS), st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_is_an_error_or_nothing(protocol: str, chunks: list[bytes]) -> None:
    wire = started(protocol, TERMINAL)
    try:
        for chunk in chunks:
            if Left() in wire.receive(chunk):
                break
    except WireError:
        pass
