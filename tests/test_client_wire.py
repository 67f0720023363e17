"""Answers that come too late, or that nobody waits for: none may pass for the answer to another command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import hiredis
import pytest
from redis import exceptions

from replicator.address import Address
from replicator.client import aio, sync
from replicator.client.plans import Ask
from replicator.client.routing import ERR, LOST, NOT_SENT, Failure
from replicator.client.wire import failure_of, told
from tests.memory_cluster import until


class Late:
    """A node that answers FIRST only when it is asked SECOND, wherever that is."""

    def __init__(self) -> None:
        self.second = asyncio.Event()
        self.asked = asyncio.Event()
        self.place: Address
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
            self.asked.set()
            await self.second.wait()
            return b"+first\r\n"
        if name == b"SECOND":
            return b"+second\r\n"
        return b"+OK\r\n"


@pytest.fixture
async def late() -> AsyncIterator[Late]:
    late = Late()
    async with await asyncio.start_server(late.serve, "127.0.0.1", 0) as server:
        late.place = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        yield late
        late.second.set()


@pytest.fixture
async def wire() -> AsyncIterator[aio._Wire]:
    wire = aio._Wire("")
    yield wire
    await wire.aclose()


def ask(late: Late, name: bytes, within_s: float = 5) -> Ask:
    return Ask(late.place, [(name,)], within_s)


async def test_a_late_answer_is_not_taken_for_the_next_one(late: Late, wire: aio._Wire) -> None:
    assert await wire.ask(ask(late, b"FIRST", 0.05)) == [Failure(LOST, "there was no answer in time")]
    second = asyncio.ensure_future(wire.ask(ask(late, b"SECOND")))
    late.second.set()
    assert await second == [b"second"]


async def test_a_late_answer_is_not_taken_for_the_next_one_by_threads(late: Late) -> None:
    wire = sync._Wire("")
    first = await asyncio.to_thread(wire.ask, ask(late, b"FIRST", 0.05))
    assert first == [Failure(LOST, "there was no answer in time")]
    second = asyncio.ensure_future(asyncio.to_thread(wire.ask, ask(late, b"SECOND")))
    late.second.set()
    assert await second == [b"second"]
    wire.close()


async def test_a_task_that_is_cancelled_leaves_no_answer_behind(late: Late, wire: aio._Wire) -> None:
    first = asyncio.ensure_future(wire.ask(ask(late, b"FIRST")))
    await late.asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.ensure_future(wire.ask(ask(late, b"SECOND")))
    late.second.set()
    assert await second == [b"second"]


async def test_a_connection_that_the_node_has_closed_is_not_used(late: Late, wire: aio._Wire) -> None:
    assert await wire.ask(ask(late, b"SECOND")) == [b"second"]
    await late.hang_up()
    pool: Any = wire._pools[late.place]
    await until(lambda: all(it._reader.at_eof() for it in pool._available_connections))
    assert await wire.ask(ask(late, b"SECOND")) == [b"second"]


async def test_a_connection_that_the_node_has_closed_is_not_used_by_threads(late: Late) -> None:
    wire = sync._Wire("")
    assert await asyncio.to_thread(wire.ask, ask(late, b"SECOND")) == [b"second"]
    await late.hang_up()
    assert await asyncio.to_thread(wire.ask, ask(late, b"SECOND")) == [b"second"]
    wire.close()


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
        (TimeoutError(), Failure(NOT_SENT, "there was no answer in time")),
    ],
)
def test_errors_of_redis_py(error: Exception, failure: Failure) -> None:
    assert failure_of(error, otherwise=NOT_SENT) == failure
    assert told([1, error, [error]])[2][0].message == failure.message
