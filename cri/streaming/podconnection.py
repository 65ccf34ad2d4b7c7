"""One forwarded connection's end in the pod: a TCP connection, from its request to its end.

The client's side and the pod's end each by itself (half-close). What breaks off on one side is
broken off on the other: a client that gives up is a reset for the pod.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol

UNSENT = (64 * 1024, 16 * 1024)  # bytes: the client has to wait above, and goes on below
LINGER = 10.0  # seconds that the pod has, when the session is over, to take what it was sent


class Session(Protocol):
    """What a connection tells the session that it belongs to."""

    @property
    def client_full(self) -> bool:
        """Whether nothing may be read from the pod for now."""

    @property
    def half_close(self) -> bool:
        """Whether the client can send on when the pod has ended."""

    def answer(self, number: int, data: bytes) -> None:
        """Bytes for the client."""

    def answered(self, number: int) -> None:
        """The pod sends no more."""

    def broken(self, number: int) -> None:
        """The connection has ended before both sides did."""

    def gone(self, connection: PodConnection) -> None:
        """There is no connection, and will be none."""

    def hold(self, connection: PodConnection) -> None:
        """It can't take more."""

    def release(self, connection: PodConnection) -> None:
        """It can again."""


class PodConnection(asyncio.Protocol):
    """One TCP connection into the pod, from when the client asks until both sides have ended."""

    def __init__(self, number: int, session: Session) -> None:
        self.number = number
        self._session = session
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []  # from the client, before there was a connection
        self._early_size = 0
        self._client_ended = False
        self._pod_ended = False
        self._given_up = False  # before there was a connection
        self.pending: asyncio.TimerHandle | asyncio.Task[None] | None = None  # until it is made

    @property
    def made(self) -> bool:
        """Whether there is, or was, a TCP connection."""
        return self._transport is not None

    # what the client does

    def send(self, data: bytes) -> None:
        """Pass bytes on, or keep them until there is a connection."""
        if self._transport is not None:
            self._transport.write(data)
            return
        self._early.append(data)
        self._early_size += len(data)
        if self._early_size > UNSENT[0]:
            self._session.hold(self)

    def end(self) -> None:
        """The client sends no more: half-close, behind what is still unsent."""
        self._client_ended = True
        if self._transport is not None:
            self._end_input(self._transport)

    def abort(self) -> None:
        """Give up both ways: the pod sees a reset, unless it has ended its side already."""
        self._stop_waiting()
        if self._transport is not None:
            if not self._pod_ended:
                _reset_at_close(self._transport)
            self._transport.abort()

    def leave(self) -> None:
        """The session is over: deliver what the client has ended properly, abort the rest."""
        if not self._client_ended:
            self.abort()
            return
        self._stop_waiting()
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(LINGER, self._transport.abort)

    def pause(self) -> None:
        """Read no more of the pod's bytes for now."""
        if self._transport is not None and not self._pod_ended:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._pod_ended:
            self._transport.resume_reading()

    # what the pod does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._given_up:
            _reset_at_close(transport)
            transport.abort()
            return
        transport.set_write_buffer_limits(*UNSENT)
        self._session.release(self)
        for data in self._early:
            transport.write(data)
        self._early.clear()
        if self._client_ended:
            self._end_input(transport)
        if self._session.client_full:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._session.answer(self.number, data)

    def eof_received(self) -> bool:
        self._pod_ended = True
        self._session.answered(self.number)
        return self._session.half_close and not self._client_ended  # keep the other half open

    def pause_writing(self) -> None:
        self._session.hold(self)

    def resume_writing(self) -> None:
        self._session.release(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._pod_ended or not self._client_ended:
            self._session.broken(self.number)
        self._session.gone(self)

    def _stop_waiting(self) -> None:
        if self.pending is not None:
            self.pending.cancel()
        if self._transport is None:
            self._given_up = True
            self._session.gone(self)

    def _end_input(self, transport: asyncio.Transport) -> None:
        if self._pod_ended:
            transport.close()
        elif not transport.is_closing():
            transport.write_eof()


def _reset_at_close(transport: asyncio.Transport) -> None:
    """Have close() send RST instead of FIN: what was sent is not all there was."""
    made = transport.get_extra_info("socket")
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
