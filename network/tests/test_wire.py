"""The codec: what goes in comes out, and bad lengths are refused."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.netlink.wire import (
    Request,
    attribute,
    attribute_list,
    attributes,
    decode,
    encode,
    nested,
    string,
    text,
)

KINDS = st.integers(0, 0x3FFF)


@given(st.lists(st.tuples(KINDS, st.binary(max_size=200))))
def test_attributes_survive_the_wire(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in pairs)
    assert len(data) % 4 == 0
    assert list(attribute_list(data)) == pairs
    assert attributes(nested(7, data)) == {7: data}


@given(st.lists(st.tuples(st.integers(16, 0xFFFF), st.binary(max_size=100)), min_size=1))
def test_messages_survive_the_wire_and_are_numbered(bodies: list[tuple[int, bytes]]) -> None:
    replies = list(decode(encode([Request(kind, body) for kind, body in bodies], 41)))
    assert [(reply.kind, reply.body) for reply in replies] == bodies
    assert [reply.sequence for reply in replies] == list(range(41, 41 + len(bodies)))
    assert all(reply.flags & 1 for reply in replies)  # NLM_F_REQUEST


@given(st.binary(max_size=64))
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes) -> None:
    for parse in (decode, attribute_list):
        with contextlib.suppress(ValueError):  # nothing else may come out of it
            list(parse(data))


def test_lengths_that_can_not_be_are_refused() -> None:
    with pytest.raises(ValueError, match="message of 3 bytes"):
        list(decode(struct.pack("=IHHII", 3, 0, 0, 0, 0)))
    with pytest.raises(ValueError, match="attribute of 9 bytes"):
        attributes(struct.pack("=HHI", 9, 1, 0))
    with pytest.raises(ValueError, match="65532 bytes; the limit is"):
        attribute(1, bytes(65532))


def test_strings_end_at_their_zero() -> None:
    assert text(3, "eth0")[4:] == b"eth0\0\0\0\0"
    assert string(b"eth0\0junk") == "eth0"
