"""An in-process registry, honest by default and faulty as asked: the test double of this package.

    with FakeRegistry() as registry:
        registry.add(built, "library/app", "1")
        registry.faults.append(Fault("/blobs/", status=429, headers={"Retry-After": "1"}))

Every request is kept in `requests`, so that tests see what was sent where.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from image.tests.build import BuiltImage, digest


@dataclass
class Fault:
    """What to do wrong at requests whose path contains `path`, `times` times.

    status, headers, body: answer this instead; cut: send only so many bytes of the body and close;
    replace: send these bytes as the body; redirect: to this URL (the request's path is appended);
    hold: wait for this event before answering; reached: set when the first such request comes.
    """

    path: str
    times: int = 1_000_000
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int = -1
    replace: bytes = b""
    redirect: str = ""
    hold: threading.Event | None = None
    method: str = ""
    reached: threading.Event = field(default_factory=threading.Event)

    async def arrival(self) -> None:
        """Wait until such a request has come; with `hold`, it waits now."""
        assert await asyncio.to_thread(self.reached.wait, 20)

    def release(self) -> None:
        """Answer the requests that are held, and hold no more."""
        assert self.hold is not None
        self.hold.set()


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class FakeRegistry:
    """auth: "" for none, "basic", "bearer"; users: name -> password.

    A bearer token is "token-<user>" or "token-" for anonymous; `public`: whether that may pull.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.auth = ""
        self.public = False
        self.users = {"alice": "secret"}
        self.identity_tokens = {"identity": "alice"}
        self.ranges = True
        self.digest_header = True
        self.faults: list[Fault] = []
        self.requests: list[Seen] = []
        self._lock = threading.Lock()
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[str, tuple[bytes, str]] = {}  # repository/tag-or-digest
        handler = type("Handler", (_Handler,), {"registry": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for fault in self.faults:
            if fault.hold is not None:
                fault.hold.set()
        self._server.shutdown()
        self._server.server_close()

    def add(self, built: BuiltImage, repository: str, tag: str) -> str:
        """Publish; the reference to pull it by."""
        self._blobs.update(built.blobs)
        for data, media_type in built.documents:
            self._manifests[f"{repository}/{digest(data)}"] = (data, media_type)
        self._manifests[f"{repository}/{tag}"] = built.documents[-1]
        return f"{self.host}/{repository}:{tag}"

    def paths(self, part: str, method: str = "GET") -> list[str]:
        """Of the requests whose path contains `part`."""
        return [seen.path for seen in self.requests if part in seen.path and seen.method == method]

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that applies now, its count taken down."""
        with self._lock:
            for fault in self.faults:
                if fault.path in path and fault.times > 0 and fault.method in ("", method):
                    fault.times -= 1
                    return fault
        return None

    def find(self, path: str) -> tuple[bytes, str] | None:
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        if match is None:
            return None
        if match[2] == "manifests":
            return self._manifests.get(f"{match[1]}/{match[3]}")
        data = self._blobs.get(match[3])
        return None if data is None else (data, "application/octet-stream")

    def challenge(self, authorization: str) -> str:
        """The WWW-Authenticate header for a request that may not pass; "" if it may."""
        kind, _, value = authorization.partition(" ")
        if not self.auth:
            return ""
        if self.auth == "basic":
            user, _, password = base64.b64decode(value or "Og==").decode().partition(":")
            good = kind == "Basic" and self.users.get(user) == password
            return "" if good else 'Basic realm="fake, with \\"quotes\\""'
        allowed = {f"token-{user}" for user in self.users} | ({"token-"} if self.public else set())
        if kind == "Bearer" and value in allowed:
            return ""
        return f'Bearer realm="http://{self.host}/token?a=b",service="fake"'

    def token(self, query: dict[str, list[str]], form: dict[str, list[str]], auth: str) -> str:
        """A token for whoever asks; "" if the password is wrong."""
        if form:
            user = self.identity_tokens.get(form.get("refresh_token", [""])[0], "")
            return f"token-{user}" if user else ""
        if not auth:
            return "token-"
        user, _, password = base64.b64decode(auth.partition(" ")[2]).decode().partition(":")
        return f"token-{user}" if self.users.get(user) == password else ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: FakeRegistry

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.registry.requests.append(Seen(self.command, self.path, headers, body))
        fault = self.registry.fault(self.command, self.path)
        if fault is not None:
            fault.reached.set()
            if fault.hold is not None:
                fault.hold.wait(30)
        if fault is not None and fault.redirect:
            self._answer(307, b"", {"Location": fault.redirect + self.path})
        elif fault is not None and fault.status:
            self._answer(fault.status, fault.body, fault.headers)
        elif urlsplit(self.path).path == "/token":
            self._token(body)
        else:
            self._serve(fault)

    def _token(self, body: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        authorization = self.headers.get("Authorization", "")
        token = self.registry.token(query, parse_qs(body.decode()), authorization)
        if token:
            self._answer(200, b'{"token": "%s"}' % token.encode(), {})
        else:
            self._error(401, "UNAUTHORIZED", "wrong password")

    def _serve(self, fault: Fault | None) -> None:
        challenge = self.registry.challenge(self.headers.get("Authorization", ""))
        if challenge:
            self._error(401, "UNAUTHORIZED", "authentication required", challenge)
            return
        found = self.registry.find(urlsplit(self.path).path)
        if found is None:
            self._error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        data, media_type = found
        headers = {"Content-Type": media_type}
        if "/manifests/" in self.path and self.registry.digest_header:
            headers["Docker-Content-Digest"] = digest(data)
        if fault is not None and fault.replace:
            data = fault.replace
        status = 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.registry.ranges:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        self._answer(status, data, headers, fault.cut if fault is not None else -1)

    def _error(self, status: int, code: str, message: str, challenge: str = "") -> None:
        text = f'{{"errors": [{{"code": "{code}", "message": "{message}"}}]}}'
        headers = {"WWW-Authenticate": challenge} if challenge else {}
        self._answer(status, text.encode(), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], cut: int = -1) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut >= 0:
            self.close_connection = True
        with contextlib.suppress(ConnectionError):  # the client was killed, say
            self.wfile.write(body[:cut] if cut >= 0 else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Quiet."""
