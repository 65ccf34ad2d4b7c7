"""Port forwarding over WebSocket, as a play: channels, and SPDY in a tunnel."""

from __future__ import annotations

import base64

import pytest
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from cri.streaming.portforward import Asked, Begun, Left, Sent
from cri.streaming.portforward_websocket import BASE64, BINARY, Channels, Tunnel
from cri.streaming.remotecommand import WireError
from cri.tests.forward_sides import Browser, Client


def test_each_channel_begins_with_its_port_and_each_port_is_connected_at_once() -> None:
    browser = Browser(Channels(BINARY, [80, 8080]))
    assert browser.say() == [Begun(0), Asked(0, 80), Begun(1), Asked(1, 8080)]
    assert browser.hear() == [b"\x00P\0", b"\x01P\0", b"\x02\x90\x1f", b"\x03\x90\x1f"]


def test_messages_are_bytes_for_the_port_of_their_channel() -> None:
    browser = Browser(Channels(BINARY, [80, 8080]))
    browser.say()
    browser.hear()
    assert browser.say(BytesMessage(b"\x02hello")) == [Sent(1, b"hello")]
    split = [BytesMessage(b"\0hel", message_finished=False), BytesMessage(b"lo")]
    assert browser.say(*split) == [Sent(0, b"hel"), Sent(0, b"lo")]
    header, payload = browser.wire.frame(1, b"answer") or (b"", b"")
    assert browser.hear(header + payload) == [b"\x02answer"]


def test_what_is_for_no_data_channel_is_passed_over() -> None:
    browser = Browser(Channels(BINARY, [80]))
    browser.say()
    for message in (b"\x01to the error channel", b"\x02no such port", b"\xff", b""):
        assert browser.say(BytesMessage(message)) == []


def test_base64_is_a_digit_and_text() -> None:
    browser = Browser(Channels(BASE64, [80]))
    browser.say()
    assert browser.hear() == ["0" + base64.b64encode(b"P\0").decode(), "1UAA="]
    assert browser.say(TextMessage("0" + base64.b64encode(b"hello").decode())) == [
        Sent(0, b"hello")
    ]
    header, payload = browser.wire.frame(0, b"answer") or (b"", b"")
    assert browser.hear(header + payload) == ["0" + base64.b64encode(b"answer").decode()]
    with pytest.raises(WireError, match="expected base64"):
        browser.say(TextMessage("0#!#!"))


def test_base64_may_be_cut_anywhere_but_not_short() -> None:
    browser = Browser(Channels(BASE64, [80]))
    browser.say()
    pieces = [
        TextMessage("0aG", message_finished=False),
        TextMessage("VsbG", message_finished=False),
        TextMessage("8="),
    ]
    assert browser.say(*pieces) == [Sent(0, b"hel"), Sent(0, b"lo")]
    with pytest.raises(WireError, match="cut short"):
        browser.say(TextMessage("0aGV"[:3]))


def test_the_session_is_over_when_all_its_connections_are() -> None:
    wire = Channels(BINARY, [80, 81])
    browser = Browser(wire)
    browser.say()
    browser.hear()
    wire.end(0)
    assert not wire.over
    assert wire.frame(0, b"x") is None
    wire.fail(1, "refused")
    assert browser.hear() == [b"\x03refused"]
    assert wire.over
    wire.close()
    assert browser.hear() == [b"bye"]


def test_a_websocket_that_says_goodbye_has_left_and_is_answered() -> None:
    browser = Browser(Channels(BINARY, [80]))
    browser.say()
    browser.hear()
    assert browser.say(BytesMessage(b"\0last"), CloseConnection(1000)) == [Sent(0, b"last"), Left()]
    browser.wire.close()
    assert browser.hear() == [b"bye"]


def test_a_ping_of_a_websocket_is_answered() -> None:
    browser = Browser(Tunnel())
    assert browser.say(Ping(b"?")) == []
    assert browser.hear() == [b"pong"]


def test_a_tunnel_carries_spdy_in_messages_cut_anywhere() -> None:
    browser = Browser(Tunnel([80]))
    client = Client(browser.wire)
    data_, error = client.stream("data", 80, 1), client.stream("error", 80, 1)
    frames = client.spdy.take()
    cut = [BytesMessage(frames[:7]), BytesMessage(frames[7:30]), BytesMessage(frames[30:])]
    assert browser.say(*cut) == [Begun(1), Asked(1, 80)]
    assert browser.say(BytesMessage(client.data(data_, b"hello"))) == [Sent(1, b"hello")]

    header, payload = browser.wire.frame(1, b"answer") or (b"", b"")
    browser.wire.end(1)
    heard = browser.hear()
    client.spdy.receive(b"".join(part for part in heard if isinstance(part, bytes)))
    (answer,) = browser.hear(header + payload)
    assert isinstance(answer, bytes)
    assert answer == bytes.fromhex("00000001 00 000006") + b"answer"
    assert error == 3


def test_noise_in_a_websocket_is_an_error_of_the_wire() -> None:
    for wire in (Channels(BINARY, [80]), Tunnel()):
        with pytest.raises(WireError):
            wire.receive(b"\xff" * 20)
    with pytest.raises(WireError, match="SPDY"):
        Browser(Tunnel()).say(BytesMessage(b"\x80\x07" + bytes(8)))
