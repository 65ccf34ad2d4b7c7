"""Tells systemd's watchdog that the daemon is well, when it has answered a call of its own.

The call goes the way that kubelet's go: over the socket, through the guard, to Status. So a loop
that hangs, a server that accepts no connection and a handler that hangs are all noticed; then
systemd is told nothing, ends the daemon and starts another. Pods do not notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import grpc

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from cri.systemd import Notifier

log = logging.getLogger(__name__)

STATUS = "/runtime.v1.RuntimeService/Status"
BEATS = 3  # in the time that systemd allows


@contextlib.asynccontextmanager
async def watched(notifier: Notifier, endpoint: str) -> AsyncIterator[None]:
    """Beats while inside, if systemd wants it. endpoint: where this daemon serves CRI."""
    if not notifier.watchdog_seconds:
        yield
        return
    async with grpc.aio.insecure_channel(endpoint) as channel:
        status = channel.unary_unary(
            STATUS, api.StatusRequest.SerializeToString, api.StatusResponse.FromString
        )
        task = asyncio.create_task(beat(notifier, lambda: status(api.StatusRequest())))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def beat(notifier: Notifier, ask: Callable[[], Awaitable[object]]) -> None:
    """Asks, and tells systemd only of an answer. Never returns."""
    pause = notifier.watchdog_seconds / BEATS
    while True:
        try:
            async with asyncio.timeout(pause):
                await ask()
        except (grpc.RpcError, TimeoutError) as error:
            log.error("the daemon does not answer itself: %s", error or "no answer in time")
        else:
            notifier.alive()
        await asyncio.sleep(pause)
