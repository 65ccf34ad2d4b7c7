"""Kubernetes' remote command protocol: channels, versions, exit statuses. Sans-IO.

A client of exec or attach and we exchange five channels, over SPDY (a stream each) or WebSocket (a
number before each message). The versions, from k8s.io/apimachinery/pkg/util/remotecommand:

    channel.k8s.io       the first: errors as text on the error channel, nothing on success
    v2.channel.k8s.io    the same, with mistakes of the first mended in clients
    v3.channel.k8s.io    and the resize channel
    v4.channel.k8s.io    the error channel carries a metav1.Status as JSON, always
    v5.channel.k8s.io    and over WebSocket the client can end a channel
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Protocol

SUFFIX = "channel.k8s.io"
MOST_RESIZE_BYTES = 4096  # a size takes 30


class Channel(enum.IntEnum):
    """Numbers as WebSocket sends them; SPDY sends the names."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which channels the RPC has asked for; the error channel is always there."""

    terminal: bool
    stdin: bool
    stdout: bool
    stderr: bool

    @property
    def outputs(self) -> tuple[Channel, ...]:
        """Those that we write a command's output to."""
        asked = ((Channel.STDOUT, self.stdout), (Channel.STDERR, self.stderr))
        return tuple(channel for channel, wanted in asked if wanted)


@dataclass(frozen=True, slots=True)
class Opened:
    """The client has all channels that it needs: the command may begin."""


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes for the command."""

    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class InputEnded:
    """There will be no more of them."""


@dataclass(frozen=True, slots=True)
class Resized:
    """The client's terminal has another size: columns, rows."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Left:
    """The client has said goodbye."""


Event = Opened | Input | InputEnded | Resized | Left


class WireError(Exception):
    """The client has said what no protocol knows; its connection is of no use any more."""


class Wire(Protocol):
    """How channels travel on one connection. Bytes in, events out; answers by `take`."""

    @property
    def version(self) -> int:
        """1 to 5."""

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes say. Raises WireError."""

    def take(self) -> bytes:
        """What is to be sent besides frames, once."""

    def frame(self, channel: Channel, payload: memoryview) -> tuple[bytes, bytes | memoryview]:
        """What to send for a piece of output: a header, and the payload as it travels."""

    def end(self, channel: Channel) -> None:
        """Nothing more will come on one of our channels."""

    def close(self) -> None:
        """Say goodbye."""


def version_of(protocol: str) -> int:
    """1 to 5 for the name of a version ("" is the first); 0: that is none."""
    if protocol in ("", SUFFIX):
        return 1
    prefix, dot, rest = protocol.partition(".")
    known = dot and rest == SUFFIX and prefix in ("v1", "v2", "v3", "v4", "v5")
    return int(prefix[1]) if known else 0


class Sizes:
    """The resize channel: JSON objects, one after the other, cut anywhere.

    Clients end each by a line feed, but its own end is enough.
    """

    def __init__(self) -> None:
        self._text = b""

    def feed(self, data: bytes | memoryview) -> list[Resized]:
        """The sizes that are complete. Raises WireError for what is not JSON."""
        *texts, self._text = (self._text + data).split(b"}")
        found = [_size(text + b"}") for text in texts]
        if len(self._text) > MOST_RESIZE_BYTES:
            raise WireError("resize channel: what is this? A size takes 30 bytes")
        return found


def _size(text: bytes) -> Resized:
    try:
        size = json.loads(text)
        width, height = size["Width"], size["Height"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise WireError(
            'resize channel: expected {"Width":80,"Height":24}, got ' + repr(text[:60])
        ) from None
    for number in (width, height):
        if type(number) is not int or not 0 <= number <= 65535:
            raise WireError(f"resize channel: {number!r} is no number of columns or rows")
    return Resized(width, height)


def exit_status(version: int, code: int) -> bytes:
    """What the error channel says when the command has ended; before version 4 zero is silence."""
    if code == 0:
        return _json({"status": "Success"}) if version >= 4 else b""
    text = f"command terminated with non-zero exit code: exit status {code}"
    if version < 4:
        return text.encode()
    cause = {"reason": "ExitCode", "message": str(code)}
    return _json(
        {
            "status": "Failure",
            "message": text,
            "reason": "NonZeroExitCode",
            "details": {"causes": [cause]},
        }
    )


def failure_status(version: int, text: str) -> bytes:
    """What the error channel says when there was no command, or its exit code is not known."""
    if version < 4:
        return text.encode(errors="replace")
    return _json(
        {
            "status": "Failure",
            "message": f"Internal error occurred: {text}",
            "reason": "InternalError",
            "details": {"causes": [{"message": text}]},
            "code": 500,
        }
    )


def _json(status: dict[str, object]) -> bytes:
    """A metav1.Status."""
    return json.dumps({"metadata": {}, **status}, separators=(",", ":")).encode()
