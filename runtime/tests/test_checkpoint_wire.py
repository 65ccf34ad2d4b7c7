"""CRIU's images: read no further than they go, and changed in nothing but what was asked."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.checkpoint.wire import MAGIC, MalformedImage, Message, first, read, write


def test_a_message_comes_back_as_it_was() -> None:
    message = Message.of((1, 300), (2, b"bytes"), (3, "text"), (1, 5))
    assert Message.parse(message.encode()).fields == message.fields
    assert message.numbers(1) == [300, 5]
    assert message.data(3) == b"text"


def test_fields_that_nobody_knows_are_kept() -> None:
    raw = b"\x08\x01" + b"\x19" + b"12345678" + b"\x25" + b"1234" + b"\x12\x01x"
    message = Message.parse(raw)
    message.set(1, 2)
    kept = Message.parse(message.encode())
    assert kept.number(1) == 2
    assert {(3, b"12345678"), (4, b"1234"), (2, b"x")} <= {(f, v) for f, _, v in kept.fields}


def test_repeated_numbers_may_be_packed() -> None:
    assert Message.of((4, b"\x01\x80\x01\x02")).numbers(4) == [1, 128, 2]


@pytest.mark.parametrize(
    "data",
    [b"\x08", b"\x08\xff", b"\x12\x05abc", b"\x0b", b"\x00\x01", b"\x08" + b"\x80" * 11 + b"\x01"],
)
def test_what_is_cut_short_or_no_message_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedImage):
        Message.parse(data)


def test_what_another_reader_might_see_differently_is_malformed() -> None:
    """A capability word of more than 32 bits, which CRIU would cut; a field that is there twice."""
    with pytest.raises(MalformedImage, match="more than 32 bits"):
        Message.of((12, 1 << 40)).numbers(12)
    with pytest.raises(MalformedImage, match="more than 32 bits"):
        Message.of((1, 1 << 32)).number(1)
    with pytest.raises(MalformedImage, match="twice"):
        Message.of((10, b"a"), (10, b"b")).message(10)
    with pytest.raises(MalformedImage, match="twice"):
        Message.of((1, 1), (1, 2)).number(1)
    assert Message.of((1, 1 << 63)).number(1, bits=64) == 1 << 63


def test_an_image_is_its_magic_and_its_messages() -> None:
    data = write("core", [Message.of((1, 1)), Message.of((1, 2))])
    assert data[:8] == struct.pack("<II", 0x54564319, 0x55053847)
    assert [message.number(1) for message in read("core", data)] == [1, 2]
    assert write("inventory", [])[:4] == struct.pack("<I", MAGIC["inventory"])
    assert read("inventory", write("inventory", [Message.of((1, 2))]))[0].number(1) == 2


def test_an_image_of_another_kind_or_of_the_oldest_form_is_malformed() -> None:
    with pytest.raises(MalformedImage, match="does not begin"):
        read("core", write("ids", []))
    with pytest.raises(MalformedImage, match="does not begin"):
        read("core", write("core", [])[4:])
    with pytest.raises(MalformedImage, match="empty"):
        first("ids", write("ids", []))


def test_an_image_that_is_cut_short_is_malformed() -> None:
    data = write("ids", [Message.of((1, b"x" * 100))])
    for end in range(9, len(data)):
        with pytest.raises(MalformedImage):
            read("ids", data[:end])


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_being_refused(data: bytes) -> None:
    try:
        message = Message.parse(data)
    except MalformedImage:
        return
    assert Message.parse(message.encode()).fields == message.fields
