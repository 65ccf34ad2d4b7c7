"""What systemd's watchdog hears, and when it hears nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cri.systemd import Notifier
from cri.watchdog import beat

if TYPE_CHECKING:
    import pytest


class Told(Notifier):
    """Counts what systemd would hear."""

    def __init__(self, seconds: float) -> None:
        super().__init__({})
        self.watchdog_seconds = seconds
        self.beats = asyncio.Semaphore(0)

    def alive(self) -> None:
        self.beats.release()


@contextmanager
def beating(task: asyncio.Task[None]) -> Iterator[None]:
    try:
        yield
    finally:
        task.cancel()


async def test_a_daemon_that_answers_itself_is_said_to_be_alive() -> None:
    told, asked = Told(0.03), asyncio.Semaphore(0)

    async def answer() -> None:
        asked.release()

    with beating(asyncio.create_task(beat(told, answer))):
        for _ in range(3):
            await asyncio.wait_for(told.beats.acquire(), 10)
            assert not asked.locked()


async def test_a_daemon_that_does_not_answer_is_not_said_to_be_alive(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told, asked = Told(0.03), asyncio.Semaphore(0)

    async def hang() -> None:
        asked.release()
        await asyncio.Event().wait()

    with beating(asyncio.create_task(beat(told, hang))):
        for _ in range(3):  # the third question comes after two that had no answer
            await asyncio.wait_for(asked.acquire(), 10)
    assert told.beats.locked()
    assert "does not answer itself" in caplog.text


async def test_one_answer_too_late_does_not_silence_the_next() -> None:
    told = Told(0.03)
    hangs = [True, False]

    async def sometimes() -> None:
        if hangs.pop(0) if hangs else False:
            await asyncio.Event().wait()

    with beating(asyncio.create_task(beat(told, sometimes))):
        await asyncio.wait_for(told.beats.acquire(), 10)
