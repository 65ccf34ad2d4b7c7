"""Which bytes of a container's output become which lines of its log. Sans-IO.

The format is CRI's: `TIMESTAMP STREAM TAG CONTENT\\n`, with TAG F for a full line and P for a piece
of one, at most LINE_BYTES of content a record (KEP: kubernetes/design-proposals, cri-logging).

The hot path writes many lines with two passes in C (`replace`, and jumps of `rfind` that look for
a line too long) and no Python per line: all lines of one read carry the same time stamp, the
moment at which they were read.
"""

from __future__ import annotations

import time

LINE_BYTES = 16384


def timestamp(nanoseconds: int) -> bytes:
    """RFC3339, UTC, nine digits: 2026-11-22T06:00:00.123456789Z. nanoseconds since the epoch."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    now = time.gmtime(seconds)
    return b"%04d-%02d-%02dT%02d:%02d:%02d.%09dZ" % (*now[:6], fraction)


class LineCutter:
    """Bytes of one stream in, log records out.

    A line is written when its newline arrives, or as a piece (P) when more than LINE_BYTES of it
    are here.
    What is left at the end of the stream is written as a piece: the newline never came.
    """

    def __init__(self, stream: str) -> None:
        """stream: "stdout" or "stderr"."""
        self._full = b" " + stream.encode() + b" F "
        self._piece = b" " + stream.encode() + b" P "
        self._rest = b""

    def feed(self, data: bytes, nanoseconds: int) -> bytes:
        """The records that `data` completes, as they go into the file."""
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        stamp = timestamp(nanoseconds)
        records = b""
        if end:
            lines = data[: end - 1].replace(b"\r\n", b"\n")
            if lines.endswith(b"\r"):
                lines = lines[:-1]
            prefix = stamp + self._full
            if _has_long_line(lines):
                records = self._cut_long_lines(lines, stamp)
            else:
                records = prefix + lines.replace(b"\n", b"\n" + prefix) + b"\n"
        if len(self._rest) > LINE_BYTES:
            records += self._take_pieces(stamp)
        return records

    def finish(self, nanoseconds: int) -> bytes:
        """The record of what never got its newline; empty if there is nothing."""
        rest, self._rest = self._rest, b""
        return timestamp(nanoseconds) + self._piece + rest + b"\n" if rest else b""

    def _cut_long_lines(self, lines: bytes, stamp: bytes) -> bytes:
        records: list[bytes] = []
        for line in lines.split(b"\n"):
            start = 0
            while len(line) - start > LINE_BYTES:
                records += (stamp, self._piece, line[start : start + LINE_BYTES], b"\n")
                start += LINE_BYTES
            records += (stamp, self._full, line[start:], b"\n")
        return b"".join(records)

    def _take_pieces(self, stamp: bytes) -> bytes:
        records: list[bytes] = []
        start = 0
        while len(self._rest) - start > LINE_BYTES:
            records += (stamp, self._piece, self._rest[start : start + LINE_BYTES], b"\n")
            start += LINE_BYTES
        self._rest = self._rest[start:]
        return b"".join(records)


def _has_long_line(lines: bytes) -> bool:
    """Whether any line has more than LINE_BYTES.

    Jumps from the last newline within reach to the next: one rfind for LINE_BYTES, not one a line.
    """
    position = 0
    while len(lines) - position > LINE_BYTES:
        end = lines.rfind(b"\n", position, position + LINE_BYTES + 1)
        if end < 0:
            return True
        position = end + 1
    return False
