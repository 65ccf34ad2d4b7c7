"""Locks take turns; flights are joined."""

from __future__ import annotations

import asyncio

import pytest

from cri.locks import Flights, Locks
from cri.undo import Undo


async def test_who_holds_the_lock_of_an_id_keeps_others_out_but_not_those_of_other_ids() -> None:
    locks = Locks()
    order: list[str] = []

    async def use(name: str, mark: str) -> None:
        async with locks.hold(name):
            order.append(f"{mark} in")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            order.append(f"{mark} out")

    await asyncio.gather(use("x", "first"), use("x", "second"), use("y", "other"))
    assert order.index("first out") < order.index("second in")
    assert order.index("other in") < order.index("first out")
    assert locks.held() == ()


async def test_a_lock_goes_on_to_the_next_when_a_waiter_gives_up() -> None:
    locks = Locks()
    async with locks.hold("x"):
        waiting = asyncio.create_task(locks.hold("x").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert locks.held() == ("x",)
    async with asyncio.timeout(5), locks.hold("x"):
        pass
    assert locks.held() == ()


async def test_a_second_request_joins_the_first_and_gets_the_same_answer() -> None:
    flights: Flights[str] = Flights()
    started = 0
    go_on = asyncio.Event()

    async def operation() -> str:
        nonlocal started
        started += 1
        await go_on.wait()
        return f"id-{started}"

    first = asyncio.create_task(flights.join("pod", operation))
    second = asyncio.create_task(flights.join("pod", operation))
    await asyncio.sleep(0)
    assert [(one.key, one.waiting) for one in flights.under_way()] == [("pod", 2)]
    go_on.set()
    assert list(await asyncio.gather(first, second)) == ["id-1", "id-1"]
    assert flights.under_way() == ()
    assert await flights.join("pod", operation) == "id-2"


async def test_an_error_reaches_all_who_joined() -> None:
    flights: Flights[str] = Flights()

    async def operation() -> str:
        await asyncio.sleep(0)
        raise ValueError("no")

    outcomes = await asyncio.gather(
        flights.join("x", operation), flights.join("x", operation), return_exceptions=True
    )
    assert [str(outcome) for outcome in outcomes] == ["no", "no"]


async def test_the_operation_goes_on_while_anybody_waits_for_it() -> None:
    flights: Flights[str] = Flights()
    go_on = asyncio.Event()

    async def operation() -> str:
        await go_on.wait()
        return "done"

    first = asyncio.create_task(flights.join("x", operation))
    second = asyncio.create_task(flights.join("x", operation))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go_on.set()
    assert await second == "done"


async def test_a_request_that_comes_while_an_abandoned_one_is_undone_starts_anew() -> None:
    flights: Flights[str] = Flights()
    undoing, go_on = asyncio.Event(), asyncio.Event()
    started = 0

    async def undo_slowly() -> None:
        undoing.set()
        await go_on.wait()

    async def operation() -> str:
        nonlocal started
        started += 1
        if started == 2:
            assert go_on.is_set()
            return "second"
        async with Undo("first") as undo:
            undo.push("slow", undo_slowly)
            await asyncio.Event().wait()
        return "first"

    first = asyncio.create_task(flights.join("x", operation))
    await asyncio.sleep(0)
    first.cancel()
    await undoing.wait()
    second = asyncio.create_task(flights.join("x", operation))
    await asyncio.sleep(0)
    assert len(flights.tasks()) == 1
    go_on.set()
    assert await second == "second"
    assert first.cancelled()


async def test_what_is_lent_is_borrowed_in_turns_and_nobody_else_gets_in() -> None:
    locks = Locks()
    order: list[str] = []

    async def borrow(name: str) -> None:
        async with locks.borrow("c"):
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    async def hold() -> None:
        async with locks.hold("c"):
            order.append("another holds")

    async with locks.hold("c"):
        other = asyncio.create_task(hold())
        await asyncio.sleep(0)
        async with locks.lend("c"):
            borrowers = [asyncio.create_task(borrow(name)) for name in ("a", "b")]
            await asyncio.sleep(0)
            order.append("who was asked has answered")
        order.append("the holder goes on")
        assert all(one.done() for one in borrowers)
    await other
    await borrow("late")
    assert order == [
        *("a begins", "who was asked has answered", "a ends", "b begins", "b ends"),
        *("the holder goes on", "another holds", "late begins", "late ends"),
    ]
    assert locks.held() == ()
