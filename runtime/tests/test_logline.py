"""Output becomes CRI log lines, whatever way the bytes are cut."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from runtime.monitor.logline import LINE_BYTES, LineCutter, timestamp

NOW = 1_795_000_000_123_456_789
RECORD = re.compile(rb"(\S+) (stdout|stderr) ([FP]) (.*)")


def content(records: bytes) -> list[tuple[bytes, bytes]]:
    """(tag, content) of each record; fails on anything that is no record."""
    lines = records.split(b"\n")
    assert lines.pop() == b""
    matches = [RECORD.fullmatch(line) for line in lines]
    assert all(matches)
    return [(match[3], match[4]) for match in matches if match]


def test_a_time_stamp_is_rfc3339_with_nine_digits() -> None:
    assert timestamp(1_000_000_000_000_000_001) == b"2001-09-09T01:46:40.000000001Z"


def test_lines_come_out_as_they_went_in() -> None:
    cutter = LineCutter("stdout")
    assert cutter.feed(b"one\ntwo\nthr", NOW) == (
        timestamp(NOW) + b" stdout F one\n" + timestamp(NOW) + b" stdout F two\n"
    )
    assert content(cutter.feed(b"ee\n\n", NOW)) == [(b"F", b"three"), (b"F", b"")]


def test_a_line_without_newline_at_the_end_is_a_piece() -> None:
    cutter = LineCutter("stderr")
    assert cutter.feed(b"no end", NOW) == b""
    assert cutter.finish(NOW) == timestamp(NOW) + b" stderr P no end\n"
    assert cutter.finish(NOW) == b""


def test_a_carriage_return_before_the_newline_is_dropped() -> None:
    assert content(LineCutter("stdout").feed(b"a\r\nb\rc\r\n", NOW)) == [
        (b"F", b"a"),
        (b"F", b"b\rc"),
    ]


def test_a_long_line_is_cut_into_pieces() -> None:
    line = b"x" * (2 * LINE_BYTES + 5)
    expected = [(b"P", line[:LINE_BYTES]), (b"P", line[:LINE_BYTES]), (b"F", b"xxxxx")]
    assert content(LineCutter("stdout").feed(line + b"\n", NOW)) == expected


def test_a_line_of_just_the_limit_is_one_record() -> None:
    line = b"x" * LINE_BYTES
    cutter = LineCutter("stdout")
    assert cutter.feed(line, NOW) == b""
    assert content(cutter.feed(b"\n", NOW)) == [(b"F", line)]


def test_a_writer_without_newlines_never_fills_our_memory() -> None:
    cutter = LineCutter("stdout")
    for _ in range(100):
        cutter.feed(b"x" * 10_000, NOW)
    assert len(cutter.finish(NOW)) <= LINE_BYTES + 64


@given(st.lists(st.binary(max_size=50) | st.just(b"y" * (LINE_BYTES + 7)) | st.just(b"\n")))
def test_no_byte_is_lost_or_made_up(chunks: list[bytes]) -> None:
    chunks = [chunk.replace(b"\r", b"") for chunk in chunks]
    cutter = LineCutter("stdout")
    records = b"".join(cutter.feed(chunk, NOW) for chunk in chunks) + cutter.finish(NOW)
    text = b"".join(item + (b"\n" if tag == b"F" else b"") for tag, item in content(records))
    assert text == b"".join(chunks)
    assert all(len(item) <= LINE_BYTES for _, item in content(records))
