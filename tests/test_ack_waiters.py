"""Waits for the acks of a number of replicas, as WAIT makes them."""

from __future__ import annotations

import asyncio

import pytest

from replicator.errors import Unblocked
from replicator.node.ack_waiters import AckWaiters
from replicator.position import BEFORE_LOG, Offset


def begin(waiters: AckWaiters, *waits: tuple[int, int]) -> list[asyncio.Task[None]]:
    """Waits for an offset and a number of replicas."""
    return [asyncio.create_task(waiters.wait(Offset(offset), replicas, 0)) for offset, replicas in waits]


async def ended(tasks: list[asyncio.Task[None]]) -> list[bool]:
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_each_wait_ends_once_enough_replicas_have_applied_its_offset() -> None:
    waiters = AckWaiters()
    tasks = begin(waiters, (7, 1), (5, 1), (5, 2), (5, 3))
    assert not any(await ended(tasks))
    waiters.advance([Offset(6), Offset(4)])
    assert await ended(tasks) == [False, True, False, False]
    waiters.advance([Offset(6), Offset(7)])
    assert await ended(tasks) == [True, True, True, False]
    waiters.advance([Offset(5)] * 3)
    assert all(await ended(tasks))


async def test_a_wait_ends_after_its_timeout_and_is_forgotten() -> None:
    waiters = AckWaiters()
    async with asyncio.timeout(10):
        await waiters.wait(Offset(1), 1, 1)
    assert not waiters._waiters


async def test_all_waits_fail_when_the_term_ends() -> None:
    waiters = AckWaiters()
    tasks = begin(waiters, (1, 1), (2, 5))
    await ended(tasks)
    waiters.fail(Unblocked("no longer leader"))
    for task in tasks:
        with pytest.raises(Unblocked, match="no longer leader"):
            await task


async def test_waits_without_an_end_are_forgotten() -> None:
    waiters = AckWaiters()
    kept = begin(waiters, (9, 2), (7, 2))
    tasks = begin(waiters, *((offset, replicas) for replicas in range(1, 6) for offset in range(10, 20)))
    await ended(tasks)
    for task in tasks:
        task.cancel()
    await ended(tasks)
    assert {replicas: len(it) for replicas, it in waiters._waiters.items()} == {2: 2}
    waiters.advance([Offset(9), Offset(8)])
    assert await ended(kept) == [False, True]
    waiters.advance([Offset(9), Offset(9)])
    assert await ended(kept) == [True, True]
    assert not waiters._waiters


async def test_a_wait_for_more_replicas_than_there_are_goes_on() -> None:
    waiters = AckWaiters()
    [task] = begin(waiters, (BEFORE_LOG, 2))
    waiters.advance([Offset(5)])
    assert await ended([task]) == [False]
    waiters.advance([Offset(5), BEFORE_LOG])
    assert await ended([task]) == [True]
