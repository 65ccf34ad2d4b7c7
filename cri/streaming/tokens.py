"""Tokens: what an RPC has allowed, kept until a client comes for it with the URL. Once each.

The client is another program than the one that asked (kubelet asks, and hands the URL to itself
or to crictl), so what it may do can't travel in the URL; eight characters stand for it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from cri.errors import StreamsExhausted

T = TypeVar("T")

TOKEN_BYTES = 6  # eight characters of base64url
LIFETIME = 60.0  # seconds
MOST = 1000  # that nobody has come for


class Tokens(Generic[T]):
    """Values by token, oldest first, and so in the order in which they expire."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, tuple[float, T]] = {}

    def __len__(self) -> int:
        self._expire()
        return len(self._waiting)

    def mint(self, value: T) -> str:
        """A new token for a value. Raises StreamsExhausted."""
        self._expire()
        if len(self._waiting) >= MOST:
            raise StreamsExhausted(
                f"{MOST} streams were asked for and not opened: each is forgotten after "
                f"{LIFETIME:g} s; try again then"
            )
        token = secrets.token_urlsafe(TOKEN_BYTES)
        while token in self._waiting:
            token = secrets.token_urlsafe(TOKEN_BYTES)
        self._waiting[token] = (self._clock() + LIFETIME, value)
        return token

    def take(self, token: str) -> T | None:
        """The value, which nobody gets a second time; None: no such token, or no longer."""
        self._expire()
        found = self._waiting.pop(token, None)
        return None if found is None else found[1]

    def _expire(self) -> None:
        now = self._clock()
        while self._waiting:
            oldest = next(iter(self._waiting))
            if self._waiting[oldest][0] > now:
                return
            del self._waiting[oldest]
