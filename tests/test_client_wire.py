"""A late or unexpected answer is never taken for the answer to another command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import hiredis
import pytest
from redis import exceptions

from replicator.address import Address
from replicator.client import aio, plans, sync
from replicator.client.plans import Send
from replicator.client.routing import ERR, LOST, NOT_SENT, Failure
from replicator.client.wire import failure_of, parse_reply
from tests.memory_cluster import until


class Late:
    """A node that answers FIRST only after it received SECOND, on any connection."""

    def __init__(self) -> None:
        self.second = asyncio.Event()
        self.asked = asyncio.Event()
        self.node: Address
        self.pings = self.requests = 0
        self.answers_pings = True
        self.answers_handshake = True
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        requests = hiredis.Reader()
        while data := await reader.read(1 << 16):
            requests.feed(data)
            while (request := requests.gets()) is not False:
                writer.write(await self._answer(request[0]))
        writer.close()

    async def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()
            await writer.wait_closed()

    async def _answer(self, name: bytes) -> bytes:
        if name == b"FIRST":
            self.requests += 1
            self.asked.set()
            await self.second.wait()
            return b"+first\r\n"
        if name == b"SECOND":
            return b"+second\r\n"
        if name == b"PING":
            self.pings += 1
            if not self.answers_pings:
                await self.second.wait()
        if name == b"CLIENT" and not self.answers_handshake:
            await self.second.wait()
        return b"+OK\r\n"


@pytest.fixture
async def late() -> AsyncIterator[Late]:
    late = Late()
    async with await asyncio.start_server(late.serve, "127.0.0.1", 0) as server:
        late.node = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        yield late
        late.second.set()


@pytest.fixture
async def pools() -> AsyncIterator[aio._ConnectionPools]:
    pools = aio._ConnectionPools("")
    yield pools
    await pools.aclose()


def ask(late: Late, name: bytes, timeout_s: float = 5) -> Send:
    return Send(late.node, [(name,)], timeout_s)


async def test_a_late_answer_is_not_taken_for_the_next_one(late: Late, pools: aio._ConnectionPools) -> None:
    assert await pools.send(ask(late, b"FIRST", 0.05)) == [Failure(LOST, "the node did not answer in time")]
    second = asyncio.ensure_future(pools.send(ask(late, b"SECOND")))
    late.second.set()
    assert await second == [b"second"]


async def test_a_late_answer_is_not_taken_for_the_next_one_by_the_blocking_client(late: Late) -> None:
    pools = sync._ConnectionPools("")
    first = await asyncio.to_thread(pools.send, ask(late, b"FIRST", 0.05))
    assert first == [Failure(LOST, "the node did not answer in time")]
    second = asyncio.ensure_future(asyncio.to_thread(pools.send, ask(late, b"SECOND")))
    late.second.set()
    assert await second == [b"second"]
    pools.close()


async def test_a_node_that_answers_pings_may_take_long(
    late: Late, pools: aio._ConnectionPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "LOOKUP_TIMEOUT_S", 30)
    blocking = sync._ConnectionPools("")
    slow = Send(late.node, [(b"FIRST",)], 60, silent_s=0.01)
    answers = [asyncio.ensure_future(it) for it in (pools.send(slow), asyncio.to_thread(blocking.send, slow))]
    await until(lambda: late.pings >= 10)
    late.second.set()
    assert await asyncio.gather(*answers) == [[b"first"], [b"first"]]
    blocking.close()


async def test_a_node_that_does_not_answer_pings_is_not_waited_for(
    late: Late, pools: aio._ConnectionPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "LOOKUP_TIMEOUT_S", 0.05)
    blocking = sync._ConnectionPools("")
    late.answers_pings = False
    slow = Send(late.node, [(b"FIRST",)], 60, silent_s=0.01)
    gone = [Failure(LOST, "the node did not answer in time")]
    assert await pools.send(slow) == gone
    assert await asyncio.to_thread(blocking.send, slow) == gone
    blocking.close()


async def test_a_node_that_is_paused_is_not_waited_for(
    late: Late, pools: aio._ConnectionPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts connections, but answers nothing."""
    monkeypatch.setattr(sync, "CONNECT_S", 0.05)
    blocking = sync._ConnectionPools("")
    late.answers_handshake = False
    read = Send(late.node, [(b"SECOND",)], 60, silent_s=0.05)
    async with asyncio.timeout(3):  # less than redis-py's own limit
        [failure] = await pools.send(read)
    assert failure.code == NOT_SENT
    [failure] = await asyncio.to_thread(blocking.send, read)
    assert failure.code == NOT_SENT
    blocking.close()


async def test_the_answer_to_a_cancelled_task_is_discarded(late: Late, pools: aio._ConnectionPools) -> None:
    first = asyncio.ensure_future(pools.send(ask(late, b"FIRST")))
    await late.asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.ensure_future(pools.send(ask(late, b"SECOND")))
    late.second.set()
    assert await second == [b"second"]


async def test_tasks_are_cancelled_twice(late: Late, pools: aio._ConnectionPools) -> None:
    """Another task must not get the connection from which one of them still reads."""
    late.second.set()
    for number in range(300):
        others = [asyncio.ensure_future(pools.send(ask(late, b"SECOND"))) for _ in range(3)]
        cancelled = [asyncio.ensure_future(pools.send(ask(late, b"FIRST"))) for _ in range(3)]
        for turns in (number % 11, number % 3):
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in cancelled:
                task.cancel()
        others += [asyncio.ensure_future(pools.send(ask(late, b"SECOND"))) for _ in range(3)]
        assert await asyncio.gather(*others) == [[b"second"]] * 6
        await asyncio.wait(cancelled)


async def test_a_closed_connection_is_not_reused(late: Late, pools: aio._ConnectionPools) -> None:
    assert await pools.send(ask(late, b"SECOND")) == [b"second"]
    await late.hang_up()
    pool: Any = pools._pools[late.node]
    await until(lambda: all(it._reader.at_eof() for it in pool._available_connections))
    assert await pools.send(ask(late, b"SECOND")) == [b"second"]


async def test_a_closed_connection_is_not_reused_by_the_blocking_client(late: Late) -> None:
    pools = sync._ConnectionPools("")
    assert await asyncio.to_thread(pools.send, ask(late, b"SECOND")) == [b"second"]
    await late.hang_up()
    assert await asyncio.to_thread(pools.send, ask(late, b"SECOND")) == [b"second"]
    pools.close()


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (exceptions.ReadOnlyError("You can't write"), Failure("READONLY", "You can't write")),
        (exceptions.BusyLoadingError("the node reads"), Failure("LOADING", "the node reads")),
        (exceptions.AuthenticationError("invalid"), Failure("NOAUTH", "invalid")),
        (exceptions.ExecAbortError("discarded"), Failure("EXECABORT", "discarded")),
        (exceptions.ResponseError("UNKNOWN offset 5 was sent"), Failure("UNKNOWN", "offset 5 was sent")),
        (exceptions.ResponseError("STALE too old"), Failure("STALE", "too old")),
        (exceptions.ResponseError("EXEC without MULTI"), Failure(ERR, "EXEC without MULTI")),
        (exceptions.ConnectionError("refused"), Failure(NOT_SENT, "refused")),
        (TimeoutError(), Failure(NOT_SENT, "the node did not answer in time")),
    ],
)
def test_errors_of_redis_py(error: Exception, failure: Failure) -> None:
    assert failure_of(error, otherwise=NOT_SENT) == failure
    assert parse_reply([1, error, [error]])[2][0].message == failure.message


async def test_a_connection_returns_to_the_pool_whenever_the_task_is_cancelled(
    late: Late, pools: aio._ConnectionPools
) -> None:
    """Also while it is returned: the pool would run out of connections."""
    await pools.send(ask(late, b"SECOND"))
    for turns in range(60):
        task = asyncio.ensure_future(pools.send(ask(late, b"SECOND")))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert not pools._pool(late.node)._in_use_connections


async def test_many_tasks_are_no_failure_of_the_node(late: Late, pools: aio._ConnectionPools) -> None:
    """redis-py's own pool would refuse the 101st. More than 100 at once would be too many for the listener."""
    slow = [asyncio.ensure_future(pools.send(ask(late, b"FIRST", 60))) for _ in range(80)]
    await until(lambda: late.requests == 80)
    more = [asyncio.ensure_future(pools.send(ask(late, b"FIRST", 60))) for _ in range(80)]
    await until(lambda: late.requests == 160)
    late.second.set()
    assert await asyncio.gather(*slow, *more) == [[b"first"]] * 160
