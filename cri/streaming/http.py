"""The HTTP/1.1 request with which a stream begins, and what we answer. Sans-IO, by h11.

A connection carries one request. It is switched to another protocol, or refused and closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import h11

MOST_HEAD = 16 * 1024  # bytes; a browser with all its cookies needs less
Headers = Sequence[tuple[str, str]]


class Refused(Exception):
    """A request that gets no stream: an HTTP status, a text, and headers."""

    def __init__(self, status: int, text: str, headers: Headers = ()) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """headers: by lower-case name, every value in order, split at commas."""

    method: str
    path: str
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def values(self, name: str) -> Sequence[str]:
        return self.headers.get(name, ())

    def value(self, name: str) -> str:
        """The first value; "": the header is not there."""
        return next(iter(self.values(name)), "")

    def has(self, name: str, wanted: str) -> bool:
        """Whether one of the values is `wanted`, in whatever case."""
        return any(value.lower() == wanted.lower() for value in self.values(name))


class RequestReader:
    """Reads one request and writes its answer."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD)
        self._request: Request | None = None

    def feed(self, data: bytes) -> Request | None:
        """The request, when all of it is there. Raises Refused."""
        try:
            self._connection.receive_data(data)
            return self._next()
        except h11.RemoteProtocolError as error:
            raise Refused(error.error_status_hint, f"not HTTP/1.1 as we know it: {error}") from None

    def _next(self) -> Request | None:
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.Request):
                if event.http_version != b"1.1":
                    raise Refused(505, "speak HTTP/1.1")
                self._request = _request(event)
            elif isinstance(event, h11.EndOfMessage):
                return self._request
            elif isinstance(event, h11.Data):
                raise Refused(413, "a request for a stream has no body")
            elif event is h11.NEED_DATA:
                return None
            else:
                raise Refused(400, "the connection ended before the request did")

    @property
    def rest(self) -> bytes:
        """What came after the request: it belongs to the next protocol."""
        data, _ = self._connection.trailing_data
        return bytes(data)

    def switch(self, headers: Headers) -> bytes:
        """101: the next bytes are of another protocol."""
        answer = h11.InformationalResponse(
            status_code=101, headers=list(headers), reason=HTTPStatus(101).phrase
        )
        return self._connection.send(answer) or b""

    def refuse(self, refused: Refused) -> bytes:
        """Any other status; the connection is closed after it."""
        if self._connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return b""
        body = f"{refused}\n".encode()
        response = h11.Response(
            status_code=refused.status,
            reason=HTTPStatus(refused.status).phrase,
            headers=[
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
                *refused.headers,
            ],
        )
        parts = (response, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(self._connection.send(part) or b"" for part in parts)


def _request(event: h11.Request) -> Request:
    if sum(len(name) + len(value) for name, value in event.headers) > MOST_HEAD:
        raise Refused(431, f"headers of more than {MOST_HEAD} bytes")
    headers: dict[str, list[str]] = {}
    for name, value in event.headers:
        values = (part.strip() for part in value.decode("latin-1").split(","))
        headers.setdefault(name.decode("ascii"), []).extend(filter(None, values))
    target = event.target.decode("latin-1")
    return Request(event.method.decode("ascii"), target.partition("?")[0], headers)
