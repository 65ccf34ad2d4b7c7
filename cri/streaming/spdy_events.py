"""What a SPDY connection tells its owner, and the statuses that it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Status of RST_STREAM (2.6.3)
PROTOCOL_ERROR, REFUSED_STREAM, CANCEL = 1, 3, 5
# Status of GOAWAY (2.6.6)
GOAWAY_OK, GOAWAY_PROTOCOL_ERROR = 0, 1


class SpdyError(Exception):
    """The peer broke the protocol. Nothing more can be read: send
    `goaway(GOAWAY_PROTOCOL_ERROR)` and close."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer wants a stream. fin: it sends nothing on it."""

    stream_id: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class StreamReplied:
    """The peer takes the stream that we opened. fin: it sends nothing on it."""

    stream_id: int
    headers: Mapping[str, str]
    fin: bool = False


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A frame's payload or a piece of it, perhaps nothing. fin: the peer sends no more on it."""

    stream_id: int
    data: bytes
    fin: bool = False


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer gave a stream up, both ways."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer opens no more streams and takes none above the last; open ones go on."""

    last_stream_id: int
    status: int


Event = StreamOpened | StreamReplied | DataReceived | StreamReset | GoneAway
