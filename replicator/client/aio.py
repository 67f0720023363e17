"""The asyncio client. Tasks may share a client, but not a session."""

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
from replicator.client.plans import Pause, Plan, Planner, Send
from replicator.client.requests import TOKEN, Argument, EncodedCommand, Reply, SessionProgress
from replicator.client.routing import NOT_SENT, Prefer, first_failure, parse_nodes
from replicator.client.sql import (
    Params,
    SqlResult,
    StatementKind,
    check_is_no_transaction,
    parse_result,
    sql_command,
)
from replicator.client.wire import CONNECTIONS, connection_options, failure_of, parse_reply
from replicator.protocol.levels import LINEARIZABLE, Level

T = TypeVar("T")


class AsyncCommands(ABC):
    """The commands of clients and sessions. All raise `Rejected`; writes raise `UnknownOutcome`, reads `Stale`."""

    @abstractmethod
    async def _write(self, commands: Sequence[EncodedCommand], id: str | None) -> list[Reply]: ...

    @abstractmethod
    async def _read(self, command: Sequence[Argument], level: Level | None) -> Reply: ...

    async def execute(self, *command: Argument, id: str | None = None) -> Any:
        """Execute a write command exactly once. `id`: your own id, under which the write can be repeated later."""
        id = id or requests.new_id()
        return (await self._write([requests.write_command(command, id)], id))[0]

    async def transaction(self, commands: Sequence[Sequence[Argument]], id: str | None = None) -> list[Any]:
        """Execute write commands atomically and exactly once. The error of a command is returned as its `Rejected`."""
        id = id or requests.new_id()
        return requests.transaction_replies((await self._write(requests.transaction_commands(commands, id), id))[-1])

    async def read(self, *command: Argument, level: Level | None = None) -> Any:
        """Execute a read command, at `level` instead of the default level."""
        return await self._read(command, level)

    async def sql(
        self, statement: str, params: Params = (), *, level: Level | None = None, id: str | None = None
    ) -> SqlResult:
        """Execute one SQL statement: a write exactly once, as with `execute`; a read at `level`, as with `read`."""
        command = sql_command(statement, params)
        if check_is_no_transaction(statement) is StatementKind.READ:
            return parse_result(await self.read(*command, level=level))
        return parse_result(await self.execute(*command, id=id))

    async def call(self, procedure: str, *arguments: Argument, id: str | None = None) -> Any:
        """Call a procedure exactly once, as with `execute`."""
        return await self.execute("REPL.CALL", procedure, *arguments, id=id)

    async def get(self, key: Argument, *, level: Level | None = None) -> bytes | None:
        return cast("bytes | None", await self.read("GET", key, level=level))

    async def hgetall(self, key: Argument, *, level: Level | None = None) -> dict[bytes, bytes]:
        return requests.pairs(await self.read("HGETALL", key, level=level))

    async def set(self, key: Argument, value: Argument) -> None:
        await self.execute("SET", key, value)

    async def delete(self, *keys: Argument) -> int:
        return int(await self.execute("DEL", *keys))

    async def incr(self, key: Argument, by: int = 1) -> int:
        return int(await self.execute("INCRBY", key, by))

    async def hset(self, key: Argument, mapping: Mapping[str, Argument]) -> int:
        return int(await self.execute(*requests.hset_command(key, mapping)))


class AsyncClient(AsyncCommands):
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
        """`nodes`: HOST:PORT of some; the others are discovered. `level`, `prefer`: for reads. Raises `ConfigError`."""
        self._planner = Planner(parse_nodes(nodes), cluster, timeout_s, time.monotonic)
        self._level = level
        self._prefer = prefer
        self._connections = _ConnectionPools(password)

    async def execute(self, *command: Argument, id: str | None = None, once: bool = True) -> Any:
        """Execute a write command. `once=False`: without an id, so it is not repeated if its outcome is unknown."""
        if once or id:
            return await super().execute(*command, id=id)
        return (await self._write([requests.write_command(command, None)], None))[0]

    def session(self, token: str | None = None) -> AsyncSession:
        """A new session. `token`: continue where another session was."""
        return AsyncSession(self, SessionProgress(token))

    async def leader(self) -> Address:
        """The address of the current leader, to connect `redis.Redis` to it for commands that this client lacks."""
        return await self._run(self._planner.leader())

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def _write(self, commands: Sequence[EncodedCommand], id: str | None) -> list[Reply]:
        return await self._run(self._planner.write(commands, id))

    async def _read(self, command: Sequence[Argument], level: Level | None) -> Reply:
        return (await self._read_all([requests.read_command(command, level or self._level)]))[0]

    async def _read_all(self, commands: Sequence[EncodedCommand]) -> list[Reply]:
        return await self._run(self._planner.read(commands, self._prefer))

    async def _run(self, plan: Plan[T]) -> T:
        try:
            step = next(plan)
            while True:
                step = plan.send(await self._run_step(step))
        except StopIteration as end:
            return cast(T, end.value)

    async def _run_step(self, step: Send | Pause) -> list[Reply]:
        if isinstance(step, Send):
            return await self._connections.send(step)
        await asyncio.sleep(step.seconds)
        return []


class AsyncSession(AsyncCommands):
    """Each read returns at least the state that this session has written and read before, at any node."""

    def __init__(self, client: AsyncClient, progress: SessionProgress) -> None:
        self._client = client
        self._progress = progress

    @property
    def token(self) -> str | None:
        """The position of this session, from which another one can continue. None before its first command."""
        return self._progress.token

    async def _write(self, commands: Sequence[EncodedCommand], id: str | None) -> list[Reply]:
        return self._without_token(await self._client._write([*commands, TOKEN], id))

    async def _read(self, command: Sequence[Argument], level: Level | None) -> Reply:
        commands = [requests.read_command(command, level or self._progress.level), TOKEN]
        return self._without_token(await self._client._read_all(commands))[0]

    def _without_token(self, replies: list[Reply]) -> list[Reply]:
        *answers, token = replies
        self._progress.update(token)
        return answers


class _ConnectionPools:
    """A pool of connections to each node."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._pools: dict[Address, redis.asyncio.ConnectionPool] = {}
        self._releasing: set[asyncio.Task[None]] = set()

    async def send(self, step: Send) -> list[Reply]:
        until_s = asyncio.get_running_loop().time() + step.timeout_s
        pool: Any = self._pool(step.node)
        try:
            async with asyncio.timeout(min(step.timeout_s, step.silent_s or step.timeout_s)):
                connection = await pool.get_connection()
        except (redis.RedisError, OSError) as error:
            return [failure_of(error, otherwise=NOT_SENT)]
        exchange = asyncio.ensure_future(_exchange(connection, step.commands))
        try:
            async with asyncio.timeout_at(until_s):
                while not (await asyncio.wait({exchange}, timeout=step.silent_s))[0]:
                    if first_failure(await self.send(step.ping)) is not None:
                        raise TimeoutError
            return exchange.result()
        except (redis.RedisError, OSError) as error:
            return [failure_of(error)]
        finally:
            if exchange.done():
                await pool.release(connection)
            else:
                exchange.cancel()
                releasing = asyncio.ensure_future(_release_after(exchange, pool, connection))
                self._releasing.add(releasing)
                releasing.add_done_callback(self._releasing.discard)
                await asyncio.shield(releasing)  # this task may be cancelled again

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    def _pool(self, node: Address) -> redis.asyncio.ConnectionPool:
        if node not in self._pools:
            options = connection_options(node, self._password)
            self._pools[node] = redis.asyncio.ConnectionPool(
                **options, max_connections=CONNECTIONS, retry=Retry(NoBackoff(), 0)
            )
        return self._pools[node]


async def _release_after(exchange: asyncio.Future[Any], pool: Any, connection: Any) -> None:
    """Until the exchange has ended, it reads from the connection. redis-py has closed it then."""
    await asyncio.wait({exchange})
    await pool.release(connection)


async def _exchange(connection: Any, commands: Sequence[EncodedCommand]) -> list[Reply]:
    await connection.send_packed_command(connection.pack_commands(commands))
    return [await _receive(connection) for _ in commands]


async def _receive(connection: Any) -> Reply:
    """Raises `redis.RedisError`, `OSError`: the connection must be closed."""
    try:
        return parse_reply(await connection.read_response())
    except redis.ResponseError as error:
        return failure_of(error)
