"""The same client for asyncio. It may be shared by tasks; a session may not."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar, cast

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from replicator.address import Address
from replicator.client import requests
from replicator.client.plans import Ask, Pause, Plan, Planner
from replicator.client.requests import TOKEN, Line, Progress, Reply, Value
from replicator.client.routing import NOT_SENT, Prefer, parse_nodes
from replicator.client.wire import connection_options, failure_of, told
from replicator.protocol.levels import LINEARIZABLE, Level

T = TypeVar("T")


class Commands(ABC):
    """What clients and sessions have in common. All raise `Rejected`, writes `UnknownOutcome`, reads `Stale`."""

    @abstractmethod
    async def _write(self, lines: Sequence[Line], id: str | None) -> list[Reply]: ...

    @abstractmethod
    async def _read(self, values: Sequence[Value], level: Level | None) -> Reply: ...

    async def execute(self, *line: Value, id: str | None = None) -> Any:
        """Carry out a command that writes, once. `id`: one of your own, to be able to ask again later."""
        id = id or requests.new_id()
        return (await self._write([requests.write_line(line, id)], id))[0]

    async def transaction(self, commands: Sequence[Sequence[Value]], id: str | None = None) -> list[Any]:
        """Carry out commands that write, all at once, and once. The error of one stands in its place as `Rejected`."""
        id = id or requests.new_id()
        return requests.transaction_replies((await self._write(requests.transaction_lines(commands, id), id))[-1])

    async def read(self, *line: Value, level: Level | None = None) -> Any:
        """Carry out a command that reads, at that level instead of the usual one."""
        return await self._read(line, level)

    async def get(self, key: Value, *, level: Level | None = None) -> bytes | None:
        return cast("bytes | None", await self.read("GET", key, level=level))

    async def hgetall(self, key: Value, *, level: Level | None = None) -> dict[bytes, bytes]:
        return requests.pairs(await self.read("HGETALL", key, level=level))

    async def set(self, key: Value, value: Value) -> None:
        await self.execute("SET", key, value)

    async def delete(self, *keys: Value) -> int:
        return int(await self.execute("DEL", *keys))

    async def incr(self, key: Value, by: int = 1) -> int:
        return int(await self.execute("INCRBY", key, by))

    async def hset(self, key: Value, mapping: Mapping[str, Value]) -> int:
        return int(await self.execute(*requests.hash_line(key, mapping)))


class AsyncClient(Commands):
    def __init__(
        self,
        nodes: Sequence[str],
        *,
        cluster: str = "replicator",
        password: str = "",
        timeout_s: float = 10.0,
        level: Level = LINEARIZABLE,
        prefer: Prefer = "follower",
    ) -> None:
        """`nodes`: HOST:PORT of some; the others are found. `level`, `prefer`: of reads. Raises `ConfigError`."""
        self._planner = Planner(parse_nodes(nodes), cluster, timeout_s, time.monotonic)
        self._level = level
        self._prefer = prefer
        self._wire = _Wire(password)

    async def execute(self, *line: Value, id: str | None = None, once: bool = True) -> Any:
        """Carry out a command that writes. `once=False`: under no made-up id, so not again in doubt."""
        if once or id:
            return await super().execute(*line, id=id)
        return (await self._write([requests.write_line(line, None)], None))[0]

    def session(self, token: str | None = None) -> AsyncSession:
        """Reads that see what this session wrote and read before. `token`: go on where another one was."""
        return AsyncSession(self, Progress(token))

    async def leader(self) -> Address:
        """Who leads now: where to connect a plain `redis.Redis` for what this client does not do."""
        return await self._run(self._planner.leader())

    async def aclose(self) -> None:
        await self._wire.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def _write(self, lines: Sequence[Line], id: str | None) -> list[Reply]:
        return await self._run(self._planner.write(lines, id))

    async def _read(self, values: Sequence[Value], level: Level | None) -> Reply:
        return (await self._ask([requests.read_line(values, level or self._level)]))[0]

    async def _ask(self, lines: Sequence[Line]) -> list[Reply]:
        return await self._run(self._planner.read(lines, self._prefer))

    async def _run(self, plan: Plan[T]) -> T:
        try:
            step = next(plan)
            while True:
                step = plan.send(await self._do(step))
        except StopIteration as end:
            return cast(T, end.value)

    async def _do(self, step: Ask | Pause) -> list[Reply]:
        if isinstance(step, Ask):
            return await self._wire.ask(step)
        await asyncio.sleep(step.seconds)
        return []


class AsyncSession(Commands):
    """One after the other: each read sees at least what this session has written and read before, at any node."""

    def __init__(self, client: AsyncClient, progress: Progress) -> None:
        self._client = client
        self._progress = progress

    @property
    def token(self) -> str | None:
        """How far this session is: another one, anywhere, goes on from here. None: it has seen nothing yet."""
        return self._progress.token

    async def _write(self, lines: Sequence[Line], id: str | None) -> list[Reply]:
        return self._note(await self._client._write([*lines, TOKEN], id))

    async def _read(self, values: Sequence[Value], level: Level | None) -> Reply:
        lines = [requests.read_line(values, level or self._progress.level), TOKEN]
        return self._note(await self._client._ask(lines))[0]

    def _note(self, replies: list[Reply]) -> list[Reply]:
        *answers, token = replies
        self._progress.note(token)
        return answers


class _Wire:
    """A pool of connections to each node."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._pools: dict[Address, redis.asyncio.ConnectionPool] = {}

    async def ask(self, step: Ask) -> list[Reply]:
        until_s = asyncio.get_running_loop().time() + step.within_s
        pool: Any = self._pool(step.place)
        try:
            async with asyncio.timeout_at(until_s):
                connection = await pool.get_connection()
        except (redis.RedisError, OSError) as error:
            return [failure_of(error, otherwise=NOT_SENT)]
        try:
            async with asyncio.timeout_at(until_s):
                await connection.send_packed_command(connection.pack_commands(step.lines))
                return [await _receive(connection) for _ in step.lines]
        except (redis.RedisError, OSError) as error:
            return [failure_of(error)]
        finally:
            await pool.release(connection)  # redis-py has closed it if it was interrupted

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    def _pool(self, place: Address) -> redis.asyncio.ConnectionPool:
        if place not in self._pools:
            options = connection_options(place, self._password)
            self._pools[place] = redis.asyncio.ConnectionPool(**options, retry=Retry(NoBackoff(), 0))
        return self._pools[place]


async def _receive(connection: Any) -> Reply:
    """Raises `redis.RedisError`, `OSError`: the connection is of no more use."""
    try:
        return told(await connection.read_response())
    except redis.ResponseError as error:
        return failure_of(error)
