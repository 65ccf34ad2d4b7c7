"""Operations that go on to their end although the client who asked for them has gone."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from cri.rpc.services import Services

log = logging.getLogger(__name__)
T = TypeVar("T")


async def finish(services: Services, what: str, operation: Coroutine[None, None, T]) -> T:
    """The operation's result. If we are cancelled it goes on, and a failure is logged."""
    task = asyncio.get_running_loop().create_task(operation, name=what)
    services.busy.add(task)
    task.add_done_callback(services.busy.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_log_failure)
        raise


def background(services: Services, what: str, operation: Coroutine[None, None, None]) -> None:
    """Start an operation that nobody waits for."""
    task = asyncio.get_running_loop().create_task(operation, name=what)
    services.busy.add(task)
    task.add_done_callback(services.busy.discard)
    task.add_done_callback(_log_failure)


def _log_failure(task: asyncio.Task[T]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s: %s", task.get_name(), error)
