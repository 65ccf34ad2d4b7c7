"""SPDY as a play: a client, a server, and what each says to the other."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib

import pytest

from cri.streaming import spdy, spdy_events
from cri.streaming.spdy import Connection
from cri.streaming.spdy_events import (
    DataReceived,
    GoneAway,
    SpdyError,
    StreamOpened,
    StreamReplied,
    StreamReset,
)
from cri.streaming.spdy_headers import BLOCK_LIMIT, DICTIONARY


def header_block(*pairs: tuple[str, str], compressor: zlib._Compress | None = None) -> bytes:
    """A block by the letter of the specification."""
    text = struct.pack(">I", len(pairs))
    for name, value in pairs:
        text += struct.pack(">I", len(name)) + name.encode()
        text += struct.pack(">I", len(value)) + value.encode()
    compressor = compressor or zlib.compressobj(zdict=DICTIONARY)
    return compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)


def control(kind: int, payload: bytes, *, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload


def syn_stream(stream_id: int, block: bytes, *, flags: int = 0) -> bytes:
    return control(1, struct.pack(">IIH", stream_id, 0, 0) + block, flags=flags)


def pair() -> tuple[Connection, Connection]:
    return Connection(client=True), Connection()


def opened(headers: dict[str, str] | None = None) -> tuple[Connection, Connection, int]:
    """A client and a server with one stream, which is replied to."""
    client, server = pair()
    stream = client.open(headers or {"streamtype": "data"})
    server.receive(client.take())
    server.reply(stream)
    client.receive(server.take())
    return client, server, stream


# The play


def test_a_stream_is_opened_replied_to_and_ended_by_both() -> None:
    client, server = pair()

    stream = client.open({"streamType": "stdin", "port": "80"})
    assert stream == 1
    assert server.receive(client.take()) == [StreamOpened(1, {"streamtype": "stdin", "port": "80"})]

    server.reply(stream)
    assert client.receive(server.take()) == [StreamReplied(1, {})]

    said = client.data_header(stream, 5) + b"hello"
    assert server.receive(said) == [DataReceived(1, b"hello")]

    client.finish(stream)
    assert server.receive(client.take()) == [DataReceived(1, b"", fin=True)]

    answer = server.data_header(stream, 3, fin=True) + b"bye"
    assert client.receive(answer) == [DataReceived(1, b"bye", fin=True)]
    assert not client.can_send(stream)
    assert not server.can_send(stream)


def test_half_a_stream_goes_on_when_the_other_half_has_ended() -> None:
    client, server, stream = opened()
    client.finish(stream)
    server.receive(client.take())
    assert client.receive(server.data_header(stream, 4) + b"more") == [DataReceived(1, b"more")]
    with pytest.raises(ValueError, match="stream 1 is not open for sending"):
        client.data_header(stream, 1)


def test_headers_are_understood_from_the_first_stream_to_the_last() -> None:
    client, server = pair()
    for number in range(200):
        headers = {"streamtype": "error", "requestid": str(number), "port": "8080"}
        stream = client.open(headers, fin=True)
        assert server.receive(client.take()) == [StreamOpened(stream, headers, fin=True)]
        server.reply(stream, {"number": str(number)})
        assert client.receive(server.take()) == [StreamReplied(stream, {"number": str(number)})]


def test_a_server_opens_streams_of_even_numbers() -> None:
    client, server = pair()
    assert server.open({"a": "b"}) == 2
    assert client.receive(server.take()) == [StreamOpened(2, {"a": "b"})]


def test_a_reset_ends_both_halves() -> None:
    client, server, stream = opened()
    client.reset(stream, spdy_events.CANCEL)
    assert server.receive(client.take()) == [StreamReset(stream, spdy_events.CANCEL)]
    assert not server.can_send(stream)
    server.finish(stream)
    server.reset(stream, spdy_events.CANCEL)
    assert server.take() == b"", "there is nothing left to end"


def test_what_was_on_its_way_to_a_stream_that_we_reset_is_passed_over() -> None:
    client, server, stream = opened()
    on_its_way = client.data_header(stream, 4) + b"late"
    server.reset(stream, spdy_events.CANCEL)
    assert server.receive(on_its_way) == []


def test_a_ping_is_answered_and_an_answer_is_not() -> None:
    client, server = pair()
    ping = control(6, struct.pack(">I", 7))
    assert server.receive(ping) == []
    assert (answer := server.take()) == ping
    assert client.receive(answer) == []
    assert client.take() == b""


def test_going_away_lets_open_streams_end_and_takes_no_new_ones() -> None:
    client, server, stream = opened()
    server.goaway()
    client.open({"too": "late"})
    assert client.receive(server.take()) == [GoneAway(stream, 0)]
    assert server.receive(client.take()) == []
    assert server.receive(client.data_header(stream, 2) + b"on") == [DataReceived(stream, b"on")]


def test_settings_and_frames_of_the_future_are_passed_over() -> None:
    server = Connection()
    settings = control(4, struct.pack(">III", 1, 4, 100))
    assert server.receive(settings + control(99, b"?") + control(6, b"\0\0\0\1")) == []
    assert server.take() == control(6, b"\0\0\0\1")


def test_headers_that_come_later_may_end_a_stream() -> None:
    server = Connection()
    compressor = zlib.compressobj(zdict=DICTIONARY)
    server.receive(syn_stream(1, header_block(("a", "b"), compressor=compressor)))
    more = struct.pack(">I", 1) + header_block(("c", "d"), compressor=compressor)
    assert server.receive(control(8, more)) == []
    last = struct.pack(">I", 1) + header_block(compressor=compressor)
    assert server.receive(control(8, last, flags=1)) == [DataReceived(1, b"", fin=True)]


def test_a_stream_of_one_direction_is_not_answered() -> None:
    server = Connection()
    server.receive(syn_stream(1, header_block(("a", "b")), flags=2))
    server.reply(1)
    assert server.take() == b""
    assert not server.can_send(1)


# Golden bytes


def test_a_new_stream_is_on_the_wire_what_the_specification_says() -> None:
    client = Connection(client=True)
    client.open({"streamtype": "data", "port": "80"}, fin=True)
    frame = client.take()
    assert frame[:6] == bytes.fromhex("8003 0001 01 00")  # version 3, SYN_STREAM, FIN
    assert int.from_bytes(frame[5:8], "big") == len(frame) - 8
    assert frame[8:18] == bytes.fromhex("00000001 00000000 0000")  # id, no parent, priority, slot
    # A zlib stream that asks for the dictionary by the Adler-32 known to all peers, and is flushed.
    assert frame[18] & 0x0F == 8
    assert frame[20:24] == bytes.fromhex("e3c6a7c2")
    assert frame[-4:] == bytes.fromhex("0000ffff")
    plain = zlib.decompressobj(zdict=DICTIONARY).decompress(frame[18:])
    assert plain == (b"\0\0\0\x02\0\0\0\x0astreamtype\0\0\0\x04data\0\0\0\x04port\0\0\0\x0280")


def test_a_reply_is_on_the_wire_what_the_specification_says() -> None:
    server = Connection()
    server.receive(syn_stream(1, header_block()))
    server.reply(1)
    frame = server.take()
    assert frame[:5] == bytes.fromhex("8003 0002 00")
    assert frame[8:12] == bytes.fromhex("00000001")
    assert frame[14:18] == bytes.fromhex("e3c6a7c2")
    assert zlib.decompressobj(zdict=DICTIONARY).decompress(frame[12:]) == b"\0\0\0\0"


def test_the_dictionary_is_that_of_the_specification() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


def test_small_frames_are_byte_for_byte_what_the_specification_says() -> None:
    client, server, stream = opened()
    assert client.data_header(stream, 0x012345) == bytes.fromhex("00000001 00 012345")
    client.finish(stream)
    assert client.take() == bytes.fromhex("00000001 01 000000")
    server.reset(stream, spdy_events.CANCEL)
    assert server.take() == bytes.fromhex("8003 0003 00 000008 00000001 00000005")
    server.goaway(spdy_events.GOAWAY_PROTOCOL_ERROR)
    assert server.take() == bytes.fromhex("8003 0007 00 000008 00000001 00000001")


def test_several_values_of_a_header_stay_joined_by_nul() -> None:
    server = Connection()
    assert server.receive(syn_stream(1, header_block(("a", "x\0y")))) == [
        StreamOpened(1, {"a": "x\0y"})
    ]


# Windows


def test_a_peer_that_does_not_count_gets_no_credit() -> None:
    client, server, stream = opened()
    for _ in range(8):
        server.receive(client.data_header(stream, 65536) + bytes(65536))
    assert server.take() == b""


@pytest.mark.parametrize(
    "announcement",
    [control(4, struct.pack(">III", 1, 7, 65536)), control(9, struct.pack(">II", 0, 1000))],
    ids=["settings", "window update"],
)
def test_a_peer_that_counts_never_waits_for_credit(announcement: bytes) -> None:
    client, server, stream = opened()
    server.receive(client.data_header(stream, 1000) + bytes(1000))
    server.receive(announcement)
    assert server.take() == control(9, struct.pack(">II", 0, 1000)) + control(
        9, struct.pack(">II", stream, 1000)
    )
    server.receive(client.data_header(stream, 32768) + bytes(32768))
    assert server.take() == control(9, struct.pack(">II", 0, 32768)) + control(
        9, struct.pack(">II", stream, 32768)
    )


# What a hostile client sends


def refused(data: bytes, text: str) -> None:
    with pytest.raises(SpdyError, match=text):
        Connection().receive(data)


def test_what_breaks_the_protocol_is_named() -> None:
    refused(control(6, b"\0\0\0\1", version=2), "version 2: we speak 3")
    refused(control(6, b"\0"), "control frame 6 of 1 bytes: too short")
    refused(syn_stream(2, header_block()), "new stream 2 after 0")
    refused(syn_stream(1, b"no zlib"), "header block")
    refused(syn_stream(1, header_block(("Upper", "x"))), "'Upper': not in lower case")
    refused(syn_stream(1, header_block(("a", "x"), ("a", "y"))), "occurs twice")
    refused(struct.pack(">II", 1, 4) + b"data", "data for stream 1, which nobody opened")
    refused(control(4, struct.pack(">I", 9)), "9 settings in 4 bytes")


def test_a_stream_number_is_never_used_again() -> None:
    compressor = zlib.compressobj(zdict=DICTIONARY)
    server = Connection()
    server.receive(syn_stream(5, header_block(compressor=compressor)))
    with pytest.raises(SpdyError, match="new stream 3 after 5"):
        server.receive(syn_stream(3, header_block(compressor=compressor)))


@pytest.mark.parametrize("cut", [0, 3, 7])
def test_a_control_frame_is_refused_by_its_length_alone(cut: int) -> None:
    header = struct.pack(">HHI", 0x8003, 1, spdy.CONTROL_LIMIT + 1)
    server = Connection()
    server.receive(header[:cut])
    with pytest.raises(SpdyError, match="control frame of 16385 bytes: more than 16384"):
        server.receive(header[cut:])


def test_a_bomb_of_headers_is_not_inflated() -> None:
    bomb = header_block(("a", "\0" * (8 << 20)))
    assert len(bomb) < spdy.CONTROL_LIMIT
    tracemalloc.start()
    refused(syn_stream(1, bomb), f"header block of {BLOCK_LIMIT} bytes or more")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * BLOCK_LIMIT


def test_too_many_headers_are_refused_by_their_number() -> None:
    refused(syn_stream(1, header_block(*((f"h{n}", "") for n in range(65)))), "65 headers")


def test_streams_above_the_limit_are_refused_one_by_one_and_may_come_again_later() -> None:
    client, server = pair()
    ids = [client.open({}) for _ in range(spdy.STREAMS_LIMIT + 1)]
    events = server.receive(client.take())
    assert [event.stream_id for event in events if isinstance(event, StreamOpened)] == ids[:-1]
    assert client.receive(server.take()) == [StreamReset(ids[-1], spdy_events.REFUSED_STREAM)]

    server.reset(ids[0], spdy_events.CANCEL)
    again = client.open({})
    assert server.receive(client.take()) == [StreamOpened(again, {})]


def test_ten_thousand_streams_one_after_the_other_leave_nothing_behind() -> None:
    client, server = pair()
    for _ in range(10_000):
        stream = client.open({"a": "b"}, fin=True)
        server.receive(client.take())
        server.reply(stream)
        server.finish(stream)
        client.receive(server.take())
    assert server._streams == {}
    assert client._streams == {}


# Speed and memory


def test_a_large_payload_is_handed_on_in_pieces_and_never_kept() -> None:
    client, server, stream = opened()
    tracemalloc.start()
    got = len(server.receive(client.data_header(stream, 8 << 20)))
    for _ in range(128):
        (event,) = server.receive(bytes(65536))
        assert isinstance(event, DataReceived)
        got += len(event.data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got == 8 << 20
    assert peak < 1 << 20


def test_reading_costs_time_in_proportion_to_the_bytes() -> None:
    """500 MB/s are promised and some GB/s usual. Quadratic buffering would take minutes."""
    client, server, stream = opened()
    frame = client.data_header(stream, 32768) + bytes(32768)
    stretch = frame * 64
    chunks = [stretch[at : at + 65536] for at in range(0, len(stretch), 65536)]
    start = time.perf_counter()
    total = 0
    for _ in range(64):
        for chunk in chunks:
            for event in server.receive(chunk):
                assert isinstance(event, DataReceived)
                total += len(event.data)
    took = time.perf_counter() - start
    assert total == 64 * 64 * 32768
    assert took < 2.5, f"{total / took / 1e6:.0f} MB/s"
