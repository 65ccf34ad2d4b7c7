"""What a token stands for: something that can be served on a client's connection."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Protocol, TypeVar

from cri.streaming.peer import Peer, Talk
from cri.streaming.upgrade import Offer, Upgrade

T = TypeVar("T")


class Stream(Talk, Protocol):
    """What is served, until it or the client ends."""

    async def run(self) -> str:
        """Serve; say why it ended, for the log. Everything that was opened is closed then.

        Is cancelled when the daemon ends.
        """


class Purpose(Protocol):
    """One allowed exec, attach or port-forward."""

    @property
    def kind(self) -> str:
        """exec, attach or portforward: the first part of the URL's path."""

    @property
    def subject(self) -> str:
        """Whose, and what, for the log."""

    @property
    def offer(self) -> Offer:
        """The protocols by which it is served."""

    def begin(self, peer: Peer, upgrade: Upgrade) -> Stream:
        """What the connection, once switched, talks to."""


async def uninterrupted(work: Coroutine[object, object, T]) -> T:
    """Do it to its end, however often we are cancelled meanwhile; then be cancelled."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
