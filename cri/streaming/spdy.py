"""SPDY/3.1, both ends of a connection: bytes in, events and bytes out. Sans-IO.

    +-+---------+------+-------+--------+           +-+-----------+-------+--------+
    |1| version | type | flags | length | payload   |0| stream id | flags | length | payload
    +-+---------+------+-------+--------+           +-+-----------+-------+--------+
        15 bits    16      8       24                    31           8       24

Kubernetes' streaming speaks it by moby/spdystream, and so two things are as that expects them:

* Windows are not waited for. spdystream never sends WINDOW_UPDATE and passes over those it gets;
  who waited would stop after 64 KiB. TCP slows a sender down: who can't take more, reads no more.
  A peer that shows that it counts (by a WINDOW_UPDATE or an initial window in SETTINGS) gets the
  credit for what it sent, so that it never waits for us either.
* Data of a stream without a reply is dropped there: `reply` comes before the first data.

Everything that a peer can make us keep is bounded: one control frame (16 KiB), one header block
(32 KiB), 1024 streams. Payloads are handed on as they come and never kept.
(SPDY Protocol, draft 3.1; section numbers below are its.)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cri.streaming.spdy_events import (
    GOAWAY_OK,
    REFUSED_STREAM,
    DataReceived,
    Event,
    GoneAway,
    SpdyError,
    StreamOpened,
    StreamReplied,
    StreamReset,
)
from cri.streaming.spdy_headers import HeaderReader, HeaderWriter, MalformedHeaders

CONTROL_LIMIT = 16 * 1024  # bytes of a control frame behind its header
STREAMS_LIMIT = 1024  # open at once, by the peer: 512 forwarded connections
DATA_LIMIT = 0xFFFFFF  # bytes of one data frame
CREDIT_STEP = 32 * 1024  # bytes received before a peer that counts gets credit for them

_VERSION = 3
_CONTROL = 0x8000
_ID = 0x7FFFFFFF
_FIN, _UNIDIRECTIONAL = 1, 2
_INITIAL_WINDOW = 7  # id of a setting
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _SETTINGS = 1, 2, 3, 4
_PING, _GOAWAY, _HEADERS, _WINDOW_UPDATE = 6, 7, 8, 9

_word_pair = struct.Struct(">II")
_control_header = struct.Struct(">HHI")
_word = struct.Struct(">I")


@dataclass(slots=True)
class _Stream:
    sending: bool = True
    receiving: bool = True
    replied: bool = False
    uncredited: int = 0  # bytes received since the last credit


class Connection:
    """One end of a SPDY connection.

    Whatever was called, what `take` answers is to be sent next. Between a data header and the last
    byte of its payload nothing else may be sent.
    """

    def __init__(self, *, client: bool = False) -> None:
        self._peer_parity = 0 if client else 1
        self._next_id = 1 if client else 2
        self._last_peer_id = 0
        self._streams: dict[int, _Stream] = {}
        self._peer_streams = 0
        self._going = False
        self._writer = HeaderWriter()
        self._reader = HeaderReader()
        self._out = bytearray()
        self._kept = bytearray()  # the beginning of a frame header or control frame
        self._payload = (0, 0, False)  # of a data frame: stream, bytes still to come, FIN
        self._whole = _Stream()  # the connection as such, which has a window too (2.6.8)
        self._peer_counts = False
        self._actions: Mapping[int, Callable[[int, bytes], Event | None]] = {
            _SYN_STREAM: self._syn_stream,
            _SYN_REPLY: self._syn_reply,
            _RST_STREAM: self._rst_stream,
            _SETTINGS: self._settings,
            _PING: self._ping,
            _GOAWAY: self._goaway,
            _HEADERS: self._more_headers,
            _WINDOW_UPDATE: self._window_update,
        }

    # What the peer sends

    def receive(self, data: bytes) -> list[Event]:
        """Bytes as they came -> what they mean. Raises SpdyError.

        Stop reading while what was taken can't be sent: each ping and each stream too many is
        answered by some 12 to 16 bytes.
        """
        events: list[Event] = []
        at, end = 0, len(data)
        while at < end:
            stream_id, left, fin = self._payload
            if left:
                piece = data[at : at + left]
                at += len(piece)
                left -= len(piece)
                self._payload = (stream_id, left, fin)
                self._data(stream_id, piece, events, fin=fin and not left)
            elif not self._kept and end - at >= 8:
                at = self._frame(data, at, events)
            else:
                at = self._piece_of_frame(data, at, events)
        return events

    def _frame(self, data: bytes, at: int, events: list[Event]) -> int:
        """Read the frame whose header is at `at`; answer where reading goes on."""
        first, second = _pair(data, at)
        length = second & 0xFFFFFF
        if not first >> 31:
            self._begin_data(first, length, events, fin=bool(second >> 24 & _FIN))
            return at + 8
        _check_control(first, length)
        if at + 8 + length > len(data):
            self._kept += data[at:]
            return len(data)
        self._act(first & 0xFFFF, second >> 24, data[at + 8 : at + 8 + length], events)
        return at + 8 + length

    def _piece_of_frame(self, data: bytes, at: int, events: list[Event]) -> int:
        """Read more of the frame whose beginning is kept; answer where reading goes on."""
        kept = self._kept
        while len(kept) < (wanted := _frame_length(kept)) and at < len(data):
            piece = data[at : at + wanted - len(kept)]
            kept += piece
            at += len(piece)
        if len(kept) == wanted:
            self._kept = bytearray()
            self._frame(bytes(kept), 0, events)
        return at

    def _begin_data(self, stream_id: int, length: int, events: list[Event], *, fin: bool) -> None:
        ours = stream_id & 1 != self._peer_parity
        if not stream_id or stream_id > (self._next_id - 2 if ours else self._last_peer_id):
            raise SpdyError(f"data for stream {stream_id}, which nobody opened")
        self._payload = (stream_id, length, fin)
        if not length:
            self._data(stream_id, b"", events, fin=fin)

    def _data(self, stream_id: int, piece: bytes, events: list[Event], *, fin: bool) -> None:
        stream = self._streams.get(stream_id)
        self._received(0, self._whole, len(piece))
        if stream is None or not stream.receiving:
            return  # reset by us while this was on its way
        self._received(stream_id, stream, len(piece))
        if piece or fin:
            events.append(DataReceived(stream_id, piece, fin))
        if fin:
            stream.receiving = False
            self._forget_if_done(stream_id, stream)

    def _act(self, kind: int, flags: int, payload: bytes, events: list[Event]) -> None:
        action = self._actions.get(kind)
        if action is None:
            return  # unknown control frames are passed over (2.2.1)
        try:
            event = action(flags, payload)
        except MalformedHeaders as error:
            raise SpdyError(str(error)) from error
        except struct.error as error:
            raise SpdyError(f"control frame {kind} of {len(payload)} bytes: too short") from error
        if event is not None:
            events.append(event)

    def _syn_stream(self, flags: int, payload: bytes) -> Event | None:
        stream_id = _word.unpack_from(payload)[0] & _ID
        headers = self._reader.headers(payload[10:])
        if stream_id & 1 != self._peer_parity or stream_id <= self._last_peer_id:
            raise SpdyError(f"new stream {stream_id} after {self._last_peer_id}")
        self._last_peer_id = stream_id
        if self._going:
            return None  # it knows by our GOAWAY that this stream is not served
        if self._peer_streams >= STREAMS_LIMIT:
            self._send(_RST_STREAM, _word_pair.pack(stream_id, REFUSED_STREAM))
            return None
        fin, one_way = bool(flags & _FIN), bool(flags & _UNIDIRECTIONAL)
        stream = _Stream(sending=not one_way, receiving=not fin, replied=one_way)
        self._streams[stream_id] = stream
        self._peer_streams += 1
        self._forget_if_done(stream_id, stream)
        return StreamOpened(stream_id, headers, fin)

    def _syn_reply(self, flags: int, payload: bytes) -> Event | None:
        stream_id = _word.unpack_from(payload)[0] & _ID
        headers = self._reader.headers(payload[4:])
        stream = self._streams.get(stream_id)
        if stream is None or stream.replied or stream_id & 1 == self._peer_parity:
            return None  # reset by us meanwhile, or a second reply
        stream.replied = True
        fin = bool(flags & _FIN)
        stream.receiving = not fin
        self._forget_if_done(stream_id, stream)
        return StreamReplied(stream_id, headers, fin)

    def _more_headers(self, flags: int, payload: bytes) -> Event | None:
        stream_id = _word.unpack_from(payload)[0] & _ID
        self._reader.headers(payload[4:])  # nobody needs them, but the compression goes on
        stream = self._streams.get(stream_id)
        if stream is None or not stream.receiving or not flags & _FIN:
            return None
        stream.receiving = False
        self._forget_if_done(stream_id, stream)
        return DataReceived(stream_id, b"", fin=True)

    def _rst_stream(self, _flags: int, payload: bytes) -> Event | None:
        stream_id, status = _word_pair.unpack(payload)
        return StreamReset(stream_id, status) if self._forget(stream_id & _ID) else None

    def _settings(self, _flags: int, payload: bytes) -> Event | None:
        count = _word.unpack_from(payload)[0]
        if len(payload) != 4 + 8 * count:
            raise SpdyError(f"{count} settings in {len(payload)} bytes")
        settings = _word_pair.iter_unpack(payload[4:])
        if any(setting & 0xFFFFFF == _INITIAL_WINDOW for setting, _ in settings):
            self._count_windows()
        return None

    def _ping(self, _flags: int, payload: bytes) -> Event | None:
        ping_id = _word.unpack(payload)[0]
        if ping_id & 1 == self._peer_parity:
            self._send(_PING, payload)
        return None

    def _goaway(self, _flags: int, payload: bytes) -> Event | None:
        last_stream_id, status = _word_pair.unpack(payload)
        return GoneAway(last_stream_id & _ID, status)

    def _window_update(self, _flags: int, payload: bytes) -> Event | None:
        _word_pair.unpack(payload)
        self._count_windows()
        return None

    # What we send

    def take(self) -> bytes:
        """The frames to send, in order; they are handed out once."""
        if not self._out:
            return b""
        out = bytes(self._out)
        self._out.clear()
        return out

    def open(self, headers: Mapping[str, str], *, fin: bool = False) -> int:
        """Open a stream and answer its id."""
        stream_id = self._next_id
        self._next_id += 2
        self._streams[stream_id] = _Stream(sending=not fin)
        payload = _word_pair.pack(stream_id, 0) + b"\0\0" + self._writer.block(headers)
        self._send(_SYN_STREAM, payload, flags=_FIN if fin else 0)
        return stream_id

    def reply(self, stream_id: int, headers: Mapping[str, str] | None = None) -> None:
        """Take a stream that the peer opened. Idempotent."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.replied or stream_id & 1 != self._peer_parity:
            return
        stream.replied = True
        self._send(_SYN_REPLY, _word.pack(stream_id) + self._writer.block(headers or {}))

    def data_header(self, stream_id: int, length: int, *, fin: bool = False) -> bytes:
        """The eight bytes before a payload. Raises ValueError if the stream can't be sent on."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.sending:
            raise ValueError(f"stream {stream_id} is not open for sending")
        if length > DATA_LIMIT:
            raise ValueError(f"{length} bytes don't fit in a frame: {DATA_LIMIT} at most")
        if fin:
            stream.sending = False
            self._forget_if_done(stream_id, stream)
        return _word_pair.pack(stream_id, (_FIN << 24 if fin else 0) | length)

    def can_send(self, stream_id: int) -> bool:
        """Whether the stream is open and not finished by us."""
        stream = self._streams.get(stream_id)
        return stream is not None and stream.sending

    def send(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        """A short text in a frame; what is long follows its `data_header`."""
        self._out += self.data_header(stream_id, len(data), fin=fin) + data

    def finish(self, stream_id: int) -> None:
        """Send no more on a stream. Idempotent."""
        if self.can_send(stream_id):
            self.send(stream_id, b"", fin=True)

    def reset(self, stream_id: int, status: int) -> None:
        """Give a stream up, both ways. Idempotent."""
        if self._forget(stream_id):
            self._send(_RST_STREAM, _word_pair.pack(stream_id, status))

    def goaway(self, status: int = GOAWAY_OK) -> None:
        """Take no more streams; open ones go on."""
        self._going = True
        self._send(_GOAWAY, _word_pair.pack(self._last_peer_id, status))

    def _send(self, kind: int, payload: bytes, *, flags: int = 0) -> None:
        header = _control_header.pack(_CONTROL | _VERSION, kind, flags << 24 | len(payload))
        self._out += header + payload

    def _received(self, stream_id: int, stream: _Stream, length: int) -> None:
        stream.uncredited += length
        if self._peer_counts and stream.uncredited >= CREDIT_STEP:
            self._give_credit(stream_id, stream)

    def _give_credit(self, stream_id: int, stream: _Stream) -> None:
        credit = min(stream.uncredited, _ID)
        self._send(_WINDOW_UPDATE, _word_pair.pack(stream_id, credit))
        stream.uncredited = 0

    def _count_windows(self) -> None:
        """The peer counts what it sends: tell it what we have taken so far, then step by step."""
        if self._peer_counts:
            return
        self._peer_counts = True
        for stream_id, stream in ((0, self._whole), *self._streams.items()):
            if stream.uncredited:
                self._give_credit(stream_id, stream)

    def _forget_if_done(self, stream_id: int, stream: _Stream) -> None:
        if not stream.sending and not stream.receiving:
            self._forget(stream_id)

    def _forget(self, stream_id: int) -> bool:
        if self._streams.pop(stream_id, None) is None:
            return False
        self._peer_streams -= stream_id & 1 == self._peer_parity
        return True


def _frame_length(beginning: bytearray) -> int:
    """How many bytes are needed to read the frame that begins so; of data frames, the header."""
    if len(beginning) < 8:
        return 8
    first, second = _pair(beginning)
    if not first >> 31:
        return 8
    _check_control(first, second & 0xFFFFFF)
    return 8 + (second & 0xFFFFFF)


def _check_control(first: int, length: int) -> None:
    if first >> 16 & 0x7FFF != _VERSION:
        raise SpdyError(f"version {first >> 16 & 0x7FFF}: we speak {_VERSION}")
    if length > CONTROL_LIMIT:
        raise SpdyError(f"control frame of {length} bytes: more than {CONTROL_LIMIT}")


def _pair(data: bytes | bytearray, at: int = 0) -> tuple[int, int]:
    first, second = _word_pair.unpack_from(data, at)
    return int(first), int(second)
