"""SPDY meets bytes that nobody thought of: cut anywhere, damaged, invented."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from cri.streaming.spdy import CONTROL_LIMIT, STREAMS_LIMIT, Connection
from cri.streaming.spdy_events import CANCEL, DataReceived, Event, SpdyError
from cri.streaming.spdy_headers import DICTIONARY

names = st.text("abcdefgh-", min_size=1, max_size=12)
headers = st.dictionaries(names, st.text(max_size=20), max_size=5)


@dataclass(frozen=True)
class Act:
    """Something that a client may do; which of its streams it does it to, by number."""

    what: str
    number: int
    headers: dict[str, str]
    payload: bytes
    fin: bool


actions = st.lists(
    st.builds(
        Act,
        st.sampled_from(["open", "open", "data", "data", "finish", "reset", "goaway"]),
        st.integers(0, 9),
        headers,
        st.binary(max_size=300),
        st.booleans(),
    ),
    max_size=30,
)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def spoken(script: Sequence[Act]) -> bytes:
    """What a client says that does all this, as far as it may."""
    client = Connection(client=True)
    said = b""
    ids: list[int] = []
    for act in script:
        stream = ids[act.number % len(ids)] if ids else 0
        if act.what == "open":
            ids.append(client.open(act.headers, fin=act.fin))
        elif act.what == "data" and client.can_send(stream):
            said += client.data_header(stream, len(act.payload), fin=act.fin) + act.payload
        elif act.what == "finish":
            client.finish(stream)
        elif act.what == "reset":
            client.reset(stream, CANCEL)
        elif act.what == "goaway":
            client.goaway()
        said += client.take()
    return said


def pieces(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    cut, at, turn = [], 0, 0
    while at < len(data):
        cut.append(data[at : at + sizes[turn % len(sizes)]])
        at += len(cut[-1])
        turn += 1
    return cut


def joined(events: Sequence[Event]) -> list[Event]:
    """Events with the pieces of a stream's data put together: where they were cut says nothing."""
    whole: list[Event] = []
    for event in events:
        last = whole[-1] if whole else None
        if (
            isinstance(event, DataReceived)
            and isinstance(last, DataReceived)
            and last.stream_id == event.stream_id
        ):
            whole[-1] = DataReceived(event.stream_id, last.data + event.data, event.fin)
        else:
            whole.append(event)
    return whole


@given(actions, cuts)
def test_where_the_bytes_are_cut_changes_nothing(script: list[Act], sizes: list[int]) -> None:
    said = spoken(script)
    at_once, in_pieces = Connection(), Connection()
    expected = at_once.receive(said)
    got = [event for piece in pieces(said, sizes) for event in in_pieces.receive(piece)]
    assert joined(got) == joined(expected)
    assert in_pieces.take() == at_once.take()


def hear(server: Connection, data: bytes, sizes: Sequence[int]) -> None:
    """Whatever comes: events or SpdyError, and never more kept than is promised."""
    with contextlib.suppress(SpdyError):
        for piece in pieces(data, sizes):
            for event in server.receive(piece):
                if isinstance(event, DataReceived):
                    assert len(event.data) <= len(piece)
            assert len(server.take()) <= 2 * len(piece) + 2 * 16
            assert len(server._kept) <= CONTROL_LIMIT + 8
            assert len(server._streams) <= STREAMS_LIMIT


@given(st.binary(max_size=2000), cuts)
@settings(max_examples=300)
def test_noise_is_an_error_or_means_something(noise: bytes, sizes: list[int]) -> None:
    hear(Connection(), noise, sizes)
    hear(Connection(client=True), noise, sizes)


control_frames = st.builds(
    lambda kind, flags, payload: (
        struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload
    ),
    st.integers(0, 10),
    st.integers(0, 255),
    st.binary(max_size=40),
)


@given(st.lists(control_frames, max_size=10), cuts)
@settings(max_examples=300)
def test_any_control_frame_is_an_error_or_means_something(
    frames: list[bytes], sizes: list[int]
) -> None:
    hear(Connection(), b"".join(frames), sizes)


@given(actions, st.data(), cuts)
@settings(max_examples=200)
def test_damaged_talk_is_an_error_or_means_something(
    script: list[Act], data: st.DataObject, sizes: list[int]
) -> None:
    said = bytearray(spoken(script))
    for _ in range(data.draw(st.integers(1, 4)) if said else 0):
        said[data.draw(st.integers(0, len(said) - 1))] = data.draw(st.integers(0, 255))
    hear(Connection(), bytes(said), sizes)


@given(st.binary(max_size=400), cuts)
@settings(max_examples=300)
def test_any_text_in_a_header_block_is_an_error_or_means_something(
    text: bytes, sizes: list[int]
) -> None:
    compressor = zlib.compressobj(zdict=DICTIONARY)
    block = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
    payload = struct.pack(">IIH", 1, 0, 0) + block
    hear(Connection(), struct.pack(">HHI", 0x8003, 1, len(payload)) + payload, sizes)
