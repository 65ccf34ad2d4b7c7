"""Undo: every step is tried, newest first, whatever happens to the request."""

from __future__ import annotations

import asyncio

import pytest

from cri.undo import Leftover, Undo


async def test_what_is_committed_is_not_undone() -> None:
    done: list[str] = []
    async with Undo("test") as undo:
        undo.push("a", done.append, "a")
        undo.commit()
    assert done == []


async def test_steps_are_undone_newest_first_functions_and_coroutines_alike() -> None:
    done: list[str] = []

    async def later(text: str) -> None:
        await asyncio.sleep(0)
        done.append(text)

    async def operation() -> None:
        async with Undo("test") as undo:
            undo.push("a", done.append, "a")
            undo.push("b", later, "b")
            undo.push("c", later, text="c")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await operation()
    assert done == ["c", "b", "a"]


async def test_leaving_without_commit_undoes_too() -> None:
    done: list[str] = []
    async with Undo("test") as undo:
        undo.push("a", done.append, "a")
    assert done == ["a"]


async def test_a_step_that_fails_does_not_keep_the_others_from_being_tried() -> None:
    done: list[str] = []
    kept: list[tuple[Leftover, ...]] = []

    def fail() -> None:
        raise OSError("busy")

    async def operation() -> None:
        async with Undo("test", on_leftovers=kept.append) as undo:
            undo.push("a", done.append, "a")
            undo.push("unmount", fail)
            undo.push("c", done.append, "c")
            raise ValueError("first")

    with pytest.raises(ValueError, match="first") as raised:
        await operation()
    assert done == ["c", "a"]
    assert [[leftover.step for leftover in leftovers] for leftovers in kept] == [["unmount"]]
    assert raised.value.__notes__ == ["not undone: unmount: busy"]


async def test_a_step_that_hangs_is_given_up_and_the_others_are_tried() -> None:
    done: list[str] = []
    async with Undo("test", step_seconds=0.05) as undo:
        undo.push("a", done.append, "a")
        undo.push("hang", asyncio.Event().wait)
    assert done == ["a"]
    assert [str(leftover) for leftover in undo.leftovers] == ["hang: TimeoutError"]


async def test_undoing_survives_repeated_cancellation() -> None:
    done: list[str] = []
    working, undoing, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        undoing.set()
        await go_on.wait()
        done.append("slow")

    async def operation() -> None:
        async with Undo("test") as undo:
            undo.push("first", done.append, "first")
            undo.push("slow", slow)
            working.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(operation())
    await working.wait()
    task.cancel()
    await undoing.wait()
    for _ in range(3):  # the client's, the server's, the daemon's end
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["slow", "first"]
