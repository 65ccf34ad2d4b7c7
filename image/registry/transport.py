"""HTTP as registries need it; the only module that knows the HTTP library.

Redirects are followed here, because what may travel along (Authorization, our certificate) ends at
the origin it was meant for.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError

from image.registry.mirrors import Tls
from image.registry.proxy import proxy_for
from image.settings import RegistrySettings

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_REDIRECT_LIMIT: Final = 8
_CHUNK: Final = 256 << 10
USER_AGENT: Final = "podwright"
# Headers that must not follow a redirect to another origin.
_PRIVATE: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class Unreachable(Exception):
    """No answer, or one cut short.

    permanent: trying again would not help (a bad certificate); absent: nobody is there, and a
    person who waits had better hear of it soon.
    """

    def __init__(self, text: str, *, permanent: bool = False, absent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.absent = absent


@dataclass(frozen=True, slots=True)
class Request:
    """form: body of a POST, urlencoded; private headers end at the origin of `url`."""

    method: str
    url: str
    headers: Mapping[str, str]
    tls: Tls
    form: Mapping[str, str] | None = None


class Response:
    """Status and headers; the body when it is read. Close it."""

    def __init__(self, answer: urllib3.BaseHTTPResponse) -> None:
        self._answer = answer
        self.status = answer.status

    def header(self, name: str) -> str:
        """The header's value, or ""."""
        return str(self._answer.headers.get(name, ""))

    def all_headers(self, name: str) -> list[str]:
        """The values of every header of that name."""
        return list(self._answer.headers.getlist(name))

    def chunks(self) -> Iterator[bytes]:
        """The body. Raises Unreachable when it ends before its Content-Length, or stalls."""
        try:
            yield from self._answer.stream(_CHUNK, decode_content=False)
        except (HTTPError, OSError) as error:
            raise Unreachable(f"the connection broke: {_text(error)}") from error

    def body(self, limit: int) -> bytes:
        """At most `limit` bytes of the body, and one more if there is more."""
        parts, size = [], 0
        for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                break
        return b"".join(parts)[: limit + 1]

    def close(self) -> None:
        """Give the connection back if the body was read, else end it."""
        self._answer.release_conn() if self._answer.closed else self._answer.close()


class Transport:
    """Connections, kept alive between requests; a pool for each way of TLS and proxy."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._pools: dict[tuple[Tls, str], urllib3.PoolManager] = {}

    def send(self, request: Request) -> Response:
        """The final answer, whatever its status. Raises Unreachable."""
        url, tls = request.url, request.tls
        headers = {"User-Agent": USER_AGENT, **request.headers}
        for _ in range(_REDIRECT_LIMIT):
            answer = self._once(request, url, headers, tls)
            location = answer.header("Location")
            if answer.status not in _REDIRECTS or not location:
                return answer
            answer.close()
            target = urljoin(url, location)
            self._check_redirect(url, target)
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                headers = {k: v for k, v in headers.items() if k.lower() not in _PRIVATE}
                tls = Tls(tls.verify, tls.ca)
            url = target
        raise Unreachable(f"more than {_REDIRECT_LIMIT} redirects", permanent=True)

    def _check_redirect(self, url: str, target: str) -> None:
        scheme = urlsplit(target).scheme
        if scheme == "https" or (scheme == "http" and urlsplit(url).scheme == "http"):
            return
        raise Unreachable(f"it redirects to {target[:200]!r}, which is not https", permanent=True)

    def _once(self, request: Request, url: str, headers: Mapping[str, str], tls: Tls) -> Response:
        settings = self._settings
        timeout = urllib3.Timeout(connect=settings.connect_timeout, read=settings.read_timeout)
        body = urlencode(request.form) if request.form is not None else None
        sent = dict(headers)
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            answer = self._pool(url, tls).request(
                request.method,
                url,
                headers=sent,
                body=body,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=timeout,
            )
        except (HTTPError, OSError) as error:
            raise _unreachable(error, tls) from error
        return Response(answer)

    def _pool(self, url: str, tls: Tls) -> urllib3.PoolManager:
        proxy = proxy_for(url)
        pool = self._pools.get((tls, proxy))
        if pool is None:
            context = _context(tls)
            if proxy:
                pool = urllib3.ProxyManager(proxy, ssl_context=context, maxsize=4)
            else:
                pool = urllib3.PoolManager(ssl_context=context, maxsize=4)
            self._pools[tls, proxy] = pool
        return pool

    def close(self) -> None:
        """End all connections."""
        for pool in self._pools.values():
            pool.clear()
        self._pools.clear()


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    name = ""
    try:
        for name in tls.ca:
            context.load_verify_locations(name)
        for name, key in tls.client:
            context.load_cert_chain(name, key or None)
    except (OSError, ssl.SSLError) as error:
        raise Unreachable(f"{name}: no usable PEM file: {error}", permanent=True) from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(error: Exception, tls: Tls) -> Unreachable:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__ or _first_argument(cause)
    if cause is None:
        return Unreachable(_text(error), absent=isinstance(error, NewConnectionError))
    trusted = ", ".join(("the system's", *tls.ca))
    text = (
        f"its certificate is not trusted: {cause.verify_message} (CAs asked: {trusted}); "
        f"name its CA as `ca` in the registry's hosts.toml"
    )
    return Unreachable(text, permanent=True)


def _first_argument(error: BaseException) -> BaseException | None:
    """urllib3 wraps by argument rather than by cause."""
    return next((item for item in error.args if isinstance(item, BaseException)), None)


def _text(error: Exception) -> str:
    """urllib3's words without its object names."""
    cause = error.__cause__
    if isinstance(error, NewConnectionError) and isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return str(error).rpartition(": Failed")[2] or str(error) or type(error).__name__
