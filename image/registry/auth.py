"""Challenges of registries and the answers to them. Sans-IO: requests and answers as values.

https://distribution.github.io/distribution/spec/auth/token/ and …/spec/auth/oauth/; RFC 7235, 6750.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from image.document import Document
from image.registry.credentials import Credentials

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of RFC 7230
_SCHEME: Final = re.compile(rf"\s*,?\s*({_TOKEN})(?:\s+|$)(?!\s*=)")
_PARAMETER: Final = re.compile(rf"\s*,?\s*({_TOKEN})\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|({_TOKEN}))")
TOKEN_LIMIT: Final = 1 << 20  # bytes of a token service's answer
_CLIENT: Final = "podwright"


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in which a registry offers to be convinced. scheme: lower case."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(headers: Iterator[str] | list[str]) -> list[Challenge]:
    """All challenges of all WWW-Authenticate headers; what can't be parsed is passed over."""
    found: list[Challenge] = []
    for header in headers:
        position = 0
        while match := _SCHEME.match(header, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while pair := _PARAMETER.match(header, position):
                quoted = re.sub(r"\\(.)", r"\1", pair[2]) if pair[2] is not None else pair[3]
                parameters[pair[1].lower()] = quoted
                position = pair.end()
            found.append(Challenge(match[1].lower(), parameters))
    return found


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What to ask the token service. form: body of a POST, or None for a GET."""

    url: str
    form: Mapping[str, str] | None
    authorization: str = ""


def answer(
    offered: list[Challenge], credentials: Credentials, scope: str
) -> str | TokenRequest | None:
    """An Authorization header, a question to the token service first, or None: nothing to say.

    A bearer challenge is preferred: it works without credentials too.
    """
    if credentials.registry_token:
        return f"Bearer {credentials.registry_token}"
    for challenge in offered:
        if challenge.scheme == "bearer" and "realm" in challenge.parameters:
            return _token_request(challenge.parameters, credentials, scope)
    if any(credentials.basic) and any(c.scheme == "basic" for c in offered):
        return basic(*credentials.basic)
    return None


def basic(username: str, password: str) -> str:
    """RFC 7617."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def _token_request(
    parameters: Mapping[str, str], credentials: Credentials, scope: str
) -> TokenRequest:
    """GET with the password as Basic; POST to trade in an identity token."""
    wanted = " ".join(dict.fromkeys((parameters.get("scope", "") + " " + scope).split()))
    service = parameters.get("service", "")
    if credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT,
            "scope": wanted,
            "refresh_token": credentials.identity_token,
        }
        return TokenRequest(parameters["realm"], form)
    parts = urlsplit(parameters["realm"])
    query = parse_qsl(parts.query, keep_blank_values=True)
    query += [("service", service)] if service else []
    query += [("scope", word) for word in wanted.split()]
    username, password = credentials.basic
    if username:
        query.append(("account", username))
    url = urlunsplit(parts._replace(query=urlencode(query)))
    return TokenRequest(url, None, basic(username, password) if username or password else "")


def token(body: bytes, what: str) -> str:
    """The Authorization header from a token service's answer. Raises ValueError."""
    document = Document.parse(body, what)
    text = document.get("token").text() or document.get("access_token").text()
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError(f"{what}: the answer has no token in it")
    return f"Bearer {text}"
