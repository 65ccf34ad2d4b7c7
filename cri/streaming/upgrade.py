"""Which protocol a request is switched to, and which version of it; or why to none. Pure.

Statuses are those of Kubernetes' servers: 400 for a request that asks for no upgrade that we know,
403 for one that knows none of our versions.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Sequence
from dataclasses import dataclass

from wsproto.utilities import generate_accept_token

from cri.streaming.http import Headers, Refused, Request

SPDY = "SPDY/3.1"
_VERSION = "x-stream-protocol-version"


class Transport(enum.StrEnum):
    SPDY = "SPDY"
    WEBSOCKET = "WebSocket"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """protocol: as the client named it, "" if it named none; headers: of the 101 response."""

    transport: Transport
    protocol: str
    headers: Headers


@dataclass(frozen=True, slots=True)
class Offer:
    """The protocols that something is served by, over either transport."""

    spdy: Sequence[str]
    websocket: Sequence[str]


def upgrade(request: Request, offer: Offer) -> Upgrade:
    """The first protocol of the client's that we serve. Raises Refused."""
    if request.has("connection", "upgrade"):
        if request.has("upgrade", "websocket"):
            return _websocket(request, offer.websocket)
        if request.has("upgrade", SPDY):
            return _spdy(request, offer.spdy)
    raise Refused(
        400,
        f"unable to upgrade: expected the headers Connection: Upgrade and Upgrade: {SPDY} "
        f"or websocket, got Connection: {', '.join(request.values('connection')) or 'nothing'} "
        f"and Upgrade: {', '.join(request.values('upgrade')) or 'nothing'}",
    )


def _spdy(request: Request, served: Sequence[str]) -> Upgrade:
    protocol = _chosen(request.values(_VERSION), served)
    headers = [("Connection", "Upgrade"), ("Upgrade", SPDY)]
    if protocol:
        headers.append(("X-Stream-Protocol-Version", protocol))
    return Upgrade(Transport.SPDY, protocol, headers)


def _websocket(request: Request, served: Sequence[str]) -> Upgrade:
    if request.method != "GET":
        raise Refused(400, f"unable to upgrade: a WebSocket begins with GET, not {request.method}")
    if request.value("sec-websocket-version") != "13":
        text = "unable to upgrade: Sec-WebSocket-Version: 13 is what we speak"
        raise Refused(400, text, [("Sec-WebSocket-Version", "13")])
    key = request.value("sec-websocket-key")
    if not _is_key(key):
        raise Refused(400, "unable to upgrade: Sec-WebSocket-Key must be base64 of 16 bytes")
    protocol = _chosen(request.values("sec-websocket-protocol"), served)
    headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Accept", generate_accept_token(key.encode()).decode()),
    ]
    if protocol:
        headers.append(("Sec-WebSocket-Protocol", protocol))
    return Upgrade(Transport.WEBSOCKET, protocol, headers)


def _chosen(asked: Sequence[str], served: Sequence[str]) -> str:
    """ "" for a client that names none: it is older than all names."""
    if not asked:
        return ""
    for protocol in asked:
        if protocol in served:
            return protocol
    raise Refused(
        403,
        f"unable to upgrade: the client speaks {', '.join(asked)}; we {', '.join(served)}",
        [("X-Accepted-Stream-Protocol-Versions", protocol) for protocol in served],
    )


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
