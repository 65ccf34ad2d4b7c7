"""Port forwarding as a play: what a client says, and which connections it means by that."""

from __future__ import annotations

import pytest

from cri.streaming import spdy, spdy_events
from cri.streaming.portforward import Aborted, Asked, Begun, Ended, Sent, SpdyForwarding
from cri.streaming.remotecommand import WireError
from cri.tests.forward_sides import Client


def forwarded() -> tuple[Client, int, int]:
    """A client with one connection, number 1."""
    client = Client(SpdyForwarding())
    error, data = client.stream("error", request=7), client.stream("data", request=7)
    assert client.say() == [Begun(1), Asked(1, 80)]
    client.hear()
    return client, error, data


def test_a_pair_of_streams_is_a_connection() -> None:
    client = Client(SpdyForwarding())
    client.stream("error", 8080, 0)
    assert client.say() == [Begun(1)]
    client.stream("data", 8080, 0)
    assert client.say() == [Asked(1, 8080)]


def test_pairs_are_told_apart_by_their_request_in_any_order() -> None:
    client = Client(SpdyForwarding())
    client.stream("data", 1, "a")
    client.stream("error", 2, "b")
    client.stream("data", 2, "b")
    client.stream("error", 1, "a")
    assert client.say() == [Begun(1), Begun(2), Asked(2, 2), Asked(1, 1)]


def test_the_oldest_clients_send_no_request_and_are_understood() -> None:
    client = Client(SpdyForwarding())
    for port in (1, 2):
        client.stream("error", port)
        client.stream("data", port)
    assert client.say() == [Begun(1), Asked(1, 1), Begun(2), Asked(2, 2)]


def test_bytes_go_both_ways_and_each_way_ends_by_itself() -> None:
    client, error, data = forwarded()
    assert client.say(client.data(data, b"question")) == [Sent(1, b"question")]
    client.spdy.finish(data)
    assert client.say() == [Ended(1)]
    header, payload = client.wire.frame(1, b"answer") or (b"", b"")
    assert client.hear(header + payload) == [spdy_events.DataReceived(data, b"answer")]
    client.wire.end(1)
    assert client.hear() == [
        spdy_events.DataReceived(data, b"", fin=True),
        spdy_events.DataReceived(error, b"", fin=True),
    ]
    assert client.wire.frame(1, b"too late") is None


def test_a_client_may_send_on_when_the_pod_has_ended() -> None:
    client, _, data = forwarded()
    client.wire.end(1)
    client.hear()
    assert client.say(client.data(data, b"more")) == [Sent(1, b"more")]


def test_why_there_is_no_connection_is_told_and_others_live_on() -> None:
    client, error, data = forwarded()
    client.wire.fail(1, "refused")
    assert client.hear() == [
        spdy_events.DataReceived(error, b"refused", fin=True),
        spdy_events.DataReceived(data, b"", fin=True),
    ]
    assert client.say(client.data(data, b"not knowing yet")) == []
    client.stream("error", request=8)
    client.stream("data", request=8)
    assert client.say() == [Begun(2), Asked(2, 80)]


def test_a_connection_that_breaks_off_is_reset_and_says_nothing() -> None:
    client, error, data = forwarded()
    client.wire.break_off(1)
    assert client.hear() == [
        spdy_events.DataReceived(error, b"", fin=True),
        spdy_events.StreamReset(data, spdy_events.CANCEL),
    ]


def test_a_client_that_resets_its_data_aborts_the_connection() -> None:
    client, error, data = forwarded()
    client.spdy.reset(data, spdy_events.CANCEL)
    assert client.say() == [Aborted(1)]
    assert client.hear() == [spdy_events.DataReceived(error, b"", fin=True)]
    assert client.wire.frame(1, b"too late") is None


def test_a_client_that_drops_only_the_error_stream_keeps_its_connection() -> None:
    client, error, data = forwarded()
    client.spdy.reset(error, spdy_events.CANCEL)
    assert client.say(client.data(data, b"on")) == [Sent(1, b"on")]
    client.wire.fail(1, "nobody reads this")
    assert client.hear() == [spdy_events.DataReceived(data, b"", fin=True)]


def test_half_a_pair_is_given_up_and_a_whole_one_is_not() -> None:
    client = Client(SpdyForwarding())
    error = client.stream("error", request="half")
    assert client.say() == [Begun(1)]
    assert client.wire.give_up(1)
    (said,) = client.hear()
    assert isinstance(said, spdy_events.DataReceived)
    assert said.stream_id == error
    assert said.fin
    assert b"missing" in said.data
    client, _, _ = forwarded()
    assert not client.wire.give_up(1)


def test_bytes_that_come_before_the_error_stream_are_not_lost() -> None:
    client = Client(SpdyForwarding())
    data = client.stream("data", request=1)
    client.say(client.data(data, b"early"))
    client.spdy.finish(data)
    client.stream("error", request=1)
    assert client.say() == [Asked(1, 80), Ended(1)]


@pytest.mark.parametrize("port", ["", "0", "65536", "http", "-1", "٣", "000080"])
def test_a_port_that_is_none_is_refused_with_its_stream(port: str) -> None:
    client = Client(SpdyForwarding())
    stream = client.stream("error", port, 1)
    assert client.say() == []
    assert client.hear() == [spdy_events.StreamReset(stream, spdy_events.PROTOCOL_ERROR)]


def test_a_stream_of_another_kind_or_a_second_one_is_refused() -> None:
    client, _, _ = forwarded()
    for kind in ("stdin", "error", "data"):
        stream = client.stream(kind, request=7)
        assert client.say() == []
        assert client.hear() == [spdy_events.StreamReset(stream, spdy_events.PROTOCOL_ERROR)]


def test_only_the_ports_that_were_asked_for_are_forwarded() -> None:
    client = Client(SpdyForwarding([80, 443]))
    error = client.stream("error", 22, 1)
    data = client.stream("data", 22, 1)
    assert client.say() == [Begun(1), Aborted(1)]
    said, ended = client.hear()
    text = b"port 22 is not forwarded here: only 80, 443"
    assert said == spdy_events.DataReceived(error, text, fin=True)
    assert ended == spdy_events.DataReceived(data, b"", fin=True)
    client.stream("error", 443, 2)
    client.stream("data", 443, 2)
    assert client.say() == [Begun(2), Asked(2, 443)]


def test_a_request_may_be_named_again_when_the_first_is_over() -> None:
    client, _, data = forwarded()
    client.spdy.finish(data)
    client.say()
    client.wire.end(1)
    client.hear()
    client.stream("error", request=7)
    client.stream("data", request=7)
    assert client.say() == [Begun(2), Asked(2, 80)]


def test_thousands_of_connections_one_after_the_other_leave_nothing() -> None:
    wire = SpdyForwarding()
    client = Client(wire)
    for number in range(1, 3000):
        error, data = client.stream("error", request=number), client.stream("data", request=number)
        client.spdy.finish(error)
        client.say()
        client.spdy.finish(data)
        client.say()
        wire.end(number)
        client.hear()
    assert (wire._pairs, wire._requests, wire._streams) == ({}, {}, {})


def test_noise_is_an_error_of_the_wire_and_goodbye_says_so() -> None:
    wire = SpdyForwarding()
    with pytest.raises(WireError, match="SPDY"):
        wire.receive(b"\x80\x02" + b"noise" * 10)
    wire.close()
    goodbye = spdy.Connection(client=True).receive(wire.take())
    assert goodbye == [spdy_events.GoneAway(0, spdy_events.GOAWAY_PROTOCOL_ERROR)]
