"""The blocking client. Threads may share a client, but not a session."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from replicator.address import Address
from replicator.client import requests
from replicator.client.errors import Rejected, Unavailable
from replicator.client.plans import Pause, Plan, Planner, Send
from replicator.client.requests import TOKEN, Argument, EncodedCommand, Reply, SessionProgress
from replicator.client.routing import LOST, NOT_SENT, Failure, Prefer, first_failure, parse_nodes
from replicator.client.sql import (
    Params,
    SqlResult,
    StatementKind,
    check_is_no_transaction,
    parse_result,
    sql_command,
)
from replicator.client.wire import CONNECT_S, CONNECTIONS, connection_options, failure_of, parse_reply
from replicator.protocol.levels import LINEARIZABLE, Level

T = TypeVar("T")


class Commands(ABC):
    """The commands of clients and sessions. All raise `Rejected`; writes raise `UnknownOutcome`, reads `Stale`."""

    @abstractmethod
    def _write(self, commands: Sequence[EncodedCommand], id: str | None) -> list[Reply]: ...

    @abstractmethod
    def _read(self, command: Sequence[Argument], level: Level | None) -> Reply: ...

    def execute(self, *command: Argument, id: str | None = None) -> Any:
        """Execute a write command exactly once. `id`: your own id, under which the write can be repeated later."""
        id = id or requests.new_id()
        return self._write([requests.write_command(command, id)], id)[0]

    def transaction(self, commands: Sequence[Sequence[Argument]], id: str | None = None) -> list[Any]:
        """Execute write commands atomically and exactly once. The error of a command is returned as its `Rejected`."""
        id = id or requests.new_id()
        return requests.transaction_replies(self._write(requests.transaction_commands(commands, id), id)[-1])

    def read(self, *command: Argument, level: Level | None = None) -> Any:
        """Execute a read command, at `level` instead of the default level."""
        return self._read(command, level)

    def sql(
        self, statement: str, params: Params = (), *, level: Level | None = None, id: str | None = None
    ) -> SqlResult:
        """Execute one SQL statement: a write exactly once, as with `execute`; a read at `level`, as with `read`."""
        command = sql_command(statement, params)
        if check_is_no_transaction(statement) is StatementKind.READ:
            return parse_result(self.read(*command, level=level))
        return parse_result(self.execute(*command, id=id))

    def call(self, procedure: str, *arguments: Argument, id: str | None = None) -> Any:
        """Call a procedure exactly once, as with `execute`."""
        return self.execute("REPL.CALL", procedure, *arguments, id=id)

    def get(self, key: Argument, *, level: Level | None = None) -> bytes | None:
        return cast("bytes | None", self.read("GET", key, level=level))

    def hgetall(self, key: Argument, *, level: Level | None = None) -> dict[bytes, bytes]:
        return requests.pairs(self.read("HGETALL", key, level=level))

    def set(self, key: Argument, value: Argument) -> None:
        self.execute("SET", key, value)

    def delete(self, *keys: Argument) -> int:
        return int(self.execute("DEL", *keys))

    def incr(self, key: Argument, by: int = 1) -> int:
        return int(self.execute("INCRBY", key, by))

    def hset(self, key: Argument, mapping: Mapping[str, Argument]) -> int:
        return int(self.execute(*requests.hset_command(key, mapping)))


class Client(Commands):
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
        self._password = password
        self._connections = _ConnectionPools(password)

    def execute(self, *command: Argument, id: str | None = None, once: bool = True) -> Any:
        """Execute a write command. `once=False`: without an id, so it is not repeated if its outcome is unknown."""
        if once or id:
            return super().execute(*command, id=id)
        return self._write([requests.write_command(command, None)], None)[0]

    def session(self, token: str | None = None) -> Session:
        """A new session. `token`: continue where another session was."""
        return Session(self, SessionProgress(token))

    def leader(self) -> Address:
        """The address of the current leader, to connect `redis.Redis` to it for commands that this client lacks."""
        return self._run(self._planner.leader())

    def connect_leader(self) -> LeaderConnection:
        """Raises `Unavailable`, `Rejected`."""
        return LeaderConnection(self.leader(), self._password)

    def close(self) -> None:
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, commands: Sequence[EncodedCommand], id: str | None) -> list[Reply]:
        return self._run(self._planner.write(commands, id))

    def _read(self, command: Sequence[Argument], level: Level | None) -> Reply:
        return self._read_all([requests.read_command(command, level or self._level)])[0]

    def _read_all(self, commands: Sequence[EncodedCommand]) -> list[Reply]:
        return self._run(self._planner.read(commands, self._prefer))

    def _run(self, plan: Plan[T]) -> T:
        try:
            step = next(plan)
            while True:
                step = plan.send(self._run_step(step))
        except StopIteration as end:
            return cast(T, end.value)

    def _run_step(self, step: Send | Pause) -> list[Reply]:
        if isinstance(step, Send):
            return self._connections.send(step)
        time.sleep(step.seconds)
        return []


class Session(Commands):
    """Each read returns at least the state that this session has written and read before, at any node."""

    def __init__(self, client: Client, progress: SessionProgress) -> None:
        self._client = client
        self._progress = progress

    @property
    def token(self) -> str | None:
        """The position of this session, from which another one can continue. None before its first command."""
        return self._progress.token

    def _write(self, commands: Sequence[EncodedCommand], id: str | None) -> list[Reply]:
        return self._without_token(self._client._write([*commands, TOKEN], id))

    def _read(self, command: Sequence[Argument], level: Level | None) -> Reply:
        return self._without_token(
            self._client._read_all([requests.read_command(command, level or self._progress.level), TOKEN])
        )[0]

    def _without_token(self, replies: list[Reply]) -> list[Reply]:
        *answers, token = replies
        self._progress.update(token)
        return answers


class _ConnectionPools:
    """A pool of connections to each node."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._pools: dict[Address, redis.ConnectionPool] = {}
        self._lock = threading.Lock()

    def send(self, step: Send) -> list[Reply]:
        until_s = time.monotonic() + step.timeout_s
        pool = self._pool(step.node)
        try:
            connection: Any = pool.get_connection()
        except (redis.RedisError, OSError) as error:
            return [failure_of(error, otherwise=NOT_SENT)]
        try:
            return _exchange(connection, step.commands, until_s, step.silent_s, lambda: self._answers(step.ping))
        finally:
            pool.release(connection)

    def _answers(self, ping: Send) -> bool:
        return first_failure(self.send(ping)) is None

    def close(self) -> None:
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def _pool(self, node: Address) -> redis.ConnectionPool:
        with self._lock:
            if node not in self._pools:
                options = connection_options(node, self._password)
                self._pools[node] = redis.ConnectionPool(
                    **options, max_connections=CONNECTIONS, socket_timeout=CONNECT_S, retry=Retry(NoBackoff(), 0)
                )
            return self._pools[node]


class LeaderConnection:
    """A connection of its own, for commands that belong to one connection, such as those of a transaction."""

    def __init__(self, leader: Address, password: str) -> None:
        """Raises `Unavailable`, `Rejected`."""
        options = connection_options(leader, password)
        connect: Any = redis.Connection
        self._connection = connect(**options, socket_timeout=CONNECT_S, retry=Retry(NoBackoff(), 0))
        try:
            self._connection.connect()
        except (redis.RedisError, OSError) as error:
            code, message = failure_of(error, otherwise=NOT_SENT)
            text = f"{leader}: {message}"
            raise (Unavailable(text) if code == NOT_SENT else Rejected(code, text)) from error
        self._is_open = True  # redis-py would connect again, without what belonged to the lost connection

    def send(self, commands: Sequence[EncodedCommand], timeout_s: float) -> list[Reply]:
        """A reply to each command, or one `Failure` with the code `LOST` for all if the connection is lost."""
        if not self._is_open:
            return [Failure(LOST, "the connection to the leader is closed")]
        self._is_open = False  # unless the exchange is complete
        replies = _exchange(self._connection, commands, time.monotonic() + timeout_s)
        self._is_open = not any(isinstance(it, Failure) and it.code == LOST for it in replies)
        return replies

    def close(self) -> None:
        self._is_open = False
        self._connection.disconnect()


def _exchange(
    connection: Any,
    commands: Sequence[EncodedCommand],
    until_s: float,
    silent_s: float | None = None,
    answers: Callable[[], bool] = lambda: True,
) -> list[Reply]:
    """The connection is closed if the exchange is interrupted, so that no late answer is taken for another one.

    `answers`: whether the node answers a PING, see `Send`.
    """
    clean = False
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        replies = [_receive(connection, until_s, silent_s, answers) for _ in commands]
        clean = True
        return replies
    except (redis.RedisError, OSError) as error:
        return [failure_of(error)]
    finally:
        if not clean:
            connection.disconnect()


def _receive(connection: Any, until_s: float, silent_s: float | None, answers: Callable[[], bool]) -> Reply:
    """Raises `redis.RedisError`, `OSError`: the connection must be closed."""
    while True:
        left_s = max(0.0, until_s - time.monotonic())
        if connection.can_read(left_s if silent_s is None else min(silent_s, left_s)):
            break
        if time.monotonic() >= until_s or not answers():
            raise TimeoutError
    try:
        return parse_reply(connection.read_response())
    except redis.ResponseError as error:
        return failure_of(error)
