"""Requests to one endpoint: authorization, retries, waits."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Final, TypeVar
from urllib.parse import urlsplit

from image.registry import auth
from image.registry.auth import TokenRequest
from image.registry.credentials import Credentials
from image.registry.errors import BODY_LIMIT, Failure, words
from image.registry.mirrors import Endpoint
from image.registry.transport import Request, Response, Transport, Unreachable
from image.settings import RegistrySettings

_TRANSIENT: Final = (408, 429, 500, 502, 503, 504)
T = TypeVar("T")


TRIES_OF_THE_ABSENT = 2  # kubelet comes again by itself


class Refused(Exception):
    """The endpoint has no more to say; `failure` is why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Session:
    """Requests for one repository at one endpoint.

    authorization: the header that convinced the endpoint last; "": none yet.
    sleep: how to wait between tries, in seconds.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        repository: str,
        credentials: Credentials,
        settings: RegistrySettings,
        transport: Transport,
        sleep: Callable[[float], None],
    ) -> None:
        self.endpoint = endpoint
        self.authorization = ""
        self.attempts = max(settings.attempts, 1)
        self._repository = repository
        self._credentials = credentials
        self._settings = settings
        self._transport = transport
        self._sleep = sleep

    def send(self, method: str, path: str, headers: Mapping[str, str]) -> Response:
        """The answer to a request below the repository, its status under 400.

        Retries what may pass by itself: broken connections, 408, 429, 5xx. Raises Refused.
        """
        return self._retried(method, path, headers, lambda response: response)

    def read(self, path: str, headers: Mapping[str, str], limit: int) -> tuple[str, bytes]:
        """Media type and body of a GET; a body longer than `limit` is cut one byte after it.

        Retried as `send` is, until the body is whole. Raises Refused.
        """

        def whole(response: Response) -> tuple[str, bytes]:
            with closing(response):
                return response.header("Content-Type"), response.body(limit)

        return self._retried("GET", path, headers, whole)

    def _retried(
        self, method: str, path: str, headers: Mapping[str, str], take: Callable[[Response], T]
    ) -> T:
        tries, most = 0, self.attempts
        while True:
            tries += 1
            try:
                response = self._authorized(method, path, headers)
                if response.status < 400:
                    return take(response)
                failure = self._refusal(response)
                passing = response.status in _TRANSIENT
            except Unreachable as error:
                failure, passing = self.failure(0, str(error)), not error.permanent
                most = min(most, TRIES_OF_THE_ABSENT) if error.absent else most
            delay = failure.retry_after or self.delay(tries)
            if not passing or tries >= most or delay > self._settings.retry_ceiling:
                raise Refused(failure)
            self._sleep(delay)

    def delay(self, tries: int) -> float:
        """Seconds to wait after so many failed tries: doubling, with jitter against stampedes."""
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - nothing secret
        longest = self._settings.retry_ceiling
        return min(self._settings.retry_delay * 2.0 ** max(tries - 1, 0), longest / 1.5) * spread

    def failure(self, status: int, text: str, retry_after: float = 0.0) -> Failure:
        """A failure of this endpoint, asked as we asked it."""
        user = self._credentials.user
        return Failure(str(self.endpoint), self.endpoint.upstream, status, text, user, retry_after)

    def _refusal(self, response: Response) -> Failure:
        try:
            text = words(response.body(BODY_LIMIT))
        except Unreachable:
            text = ""
        finally:
            response.close()
        wait = retry_after(response.header("Retry-After"), time.time())
        if wait:
            text = f"{text} (it asks to wait {wait:.0f} s)".strip()
        return self.failure(response.status, text, wait)

    def _authorized(self, method: str, path: str, headers: Mapping[str, str]) -> Response:
        """One request; a challenge is answered once, with what we have."""
        response = self._request(method, path, headers)
        if response.status != 401:
            return response
        offered = auth.challenges(response.all_headers("WWW-Authenticate"))
        scope = f"repository:{self._repository}:pull"
        reply = auth.answer(offered, self._credentials, scope)
        if reply is None or reply == self.authorization:
            return response
        response.close()
        self.authorization = reply if isinstance(reply, str) else self._token(reply)
        return self._request(method, path, headers)

    def _request(self, method: str, path: str, headers: Mapping[str, str]) -> Response:
        endpoint = self.endpoint
        sent = {**dict(endpoint.headers), **headers}
        if self.authorization:
            sent["Authorization"] = self.authorization
        query = f"?ns={endpoint.namespace}" if endpoint.namespace else ""
        url = f"{endpoint.url}/{self._repository}/{path}{query}"
        return self._transport.send(Request(method, url, sent, endpoint.tls))

    def _token(self, question: TokenRequest) -> str:
        """Ask the token service. Raises Refused with its words, Unreachable."""
        where = urlsplit(question.url)
        if where.scheme != "https" and urlsplit(self.endpoint.url).scheme == "https":
            text = f"it wants credentials sent to {where.netloc} without TLS"
            raise Unreachable(text, permanent=True)
        headers = {"Authorization": question.authorization} if question.authorization else {}
        method = "GET" if question.form is None else "POST"
        tls = self.endpoint.tls
        response = self._transport.send(Request(method, question.url, headers, tls, question.form))
        name = f"token service {where.netloc}"
        if response.status in _TRANSIENT:
            refusal = self._refusal(response)
            raise Unreachable(f"{name}: {refusal.status} {refusal.text}")
        if response.status >= 400:
            refusal = self._refusal(response)
            raise Refused(self.failure(refusal.status, f"{name}: {refusal.text}"))
        try:
            return auth.token(response.body(auth.TOKEN_LIMIT), name)
        except ValueError as error:
            raise Unreachable(str(error), permanent=True) from None
        finally:
            response.close()


def retry_after(header: str, now: float) -> float:
    """Seconds from a Retry-After header: a number or a date (RFC 9110, 10.2.3); 0 if absent."""
    if header.strip().isdigit():
        return float(header)
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - now, 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
