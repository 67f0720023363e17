"""The client for programs that block. It may be shared by threads; a session may not."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from replicator.address import Address
from replicator.client import requests
from replicator.client.plans import Ask, Pause, Plan, Planner
from replicator.client.requests import TOKEN, Line, Progress, Reply, Value
from replicator.client.routing import NOT_SENT, Prefer, parse_nodes
from replicator.client.wire import CONNECT_S, connection_options, failure_of, told
from replicator.protocol.levels import LINEARIZABLE, Level

T = TypeVar("T")


class Commands(ABC):
    """What clients and sessions have in common. All raise `Rejected`, writes `UnknownOutcome`, reads `Stale`."""

    @abstractmethod
    def _write(self, lines: Sequence[Line], id: str | None) -> list[Reply]: ...

    @abstractmethod
    def _read(self, values: Sequence[Value], level: Level | None) -> Reply: ...

    def execute(self, *line: Value, id: str | None = None) -> Any:
        """Carry out a command that writes, once. `id`: one of your own, to be able to ask again later."""
        id = id or requests.new_id()
        return self._write([requests.write_line(line, id)], id)[0]

    def transaction(self, commands: Sequence[Sequence[Value]], id: str | None = None) -> list[Any]:
        """Carry out commands that write, all at once, and once. The error of one stands in its place as `Rejected`."""
        id = id or requests.new_id()
        return requests.transaction_replies(self._write(requests.transaction_lines(commands, id), id)[-1])

    def read(self, *line: Value, level: Level | None = None) -> Any:
        """Carry out a command that reads, at that level instead of the usual one."""
        return self._read(line, level)

    def get(self, key: Value, *, level: Level | None = None) -> bytes | None:
        return cast("bytes | None", self.read("GET", key, level=level))

    def hgetall(self, key: Value, *, level: Level | None = None) -> dict[bytes, bytes]:
        return requests.pairs(self.read("HGETALL", key, level=level))

    def set(self, key: Value, value: Value) -> None:
        self.execute("SET", key, value)

    def delete(self, *keys: Value) -> int:
        return int(self.execute("DEL", *keys))

    def incr(self, key: Value, by: int = 1) -> int:
        return int(self.execute("INCRBY", key, by))

    def hset(self, key: Value, mapping: Mapping[str, Value]) -> int:
        return int(self.execute(*requests.hash_line(key, mapping)))


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
        """`nodes`: HOST:PORT of some; the others are found. `level`, `prefer`: of reads. Raises `ConfigError`."""
        self._planner = Planner(parse_nodes(nodes), cluster, timeout_s, time.monotonic)
        self._level = level
        self._prefer = prefer
        self._wire = _Wire(password)

    def execute(self, *line: Value, id: str | None = None, once: bool = True) -> Any:
        """Carry out a command that writes. `once=False`: under no made-up id, so not again in doubt."""
        if once or id:
            return super().execute(*line, id=id)
        return self._write([requests.write_line(line, None)], None)[0]

    def session(self, token: str | None = None) -> Session:
        """Reads that see what this session wrote and read before. `token`: go on where another one was."""
        return Session(self, Progress(token))

    def leader(self) -> Address:
        """Who leads now: where to connect a plain `redis.Redis` for what this client does not do."""
        return self._run(self._planner.leader())

    def close(self) -> None:
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, lines: Sequence[Line], id: str | None) -> list[Reply]:
        return self._run(self._planner.write(lines, id))

    def _read(self, values: Sequence[Value], level: Level | None) -> Reply:
        return self._ask([requests.read_line(values, level or self._level)])[0]

    def _ask(self, lines: Sequence[Line]) -> list[Reply]:
        return self._run(self._planner.read(lines, self._prefer))

    def _run(self, plan: Plan[T]) -> T:
        try:
            step = next(plan)
            while True:
                step = plan.send(self._do(step))
        except StopIteration as end:
            return cast(T, end.value)

    def _do(self, step: Ask | Pause) -> list[Reply]:
        if isinstance(step, Ask):
            return self._wire.ask(step)
        time.sleep(step.seconds)
        return []


class Session(Commands):
    """One after the other: each read sees at least what this session has written and read before, at any node."""

    def __init__(self, client: Client, progress: Progress) -> None:
        self._client = client
        self._progress = progress

    @property
    def token(self) -> str | None:
        """How far this session is: another one, anywhere, goes on from here. None: it has seen nothing yet."""
        return self._progress.token

    def _write(self, lines: Sequence[Line], id: str | None) -> list[Reply]:
        return self._note(self._client._write([*lines, TOKEN], id))

    def _read(self, values: Sequence[Value], level: Level | None) -> Reply:
        return self._note(self._client._ask([requests.read_line(values, level or self._progress.level), TOKEN]))[0]

    def _note(self, replies: list[Reply]) -> list[Reply]:
        *answers, token = replies
        self._progress.note(token)
        return answers


class _Wire:
    """A pool of connections to each node."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._pools: dict[Address, redis.ConnectionPool] = {}
        self._lock = threading.Lock()

    def ask(self, step: Ask) -> list[Reply]:
        until_s = time.monotonic() + step.within_s
        pool = self._pool(step.place)
        try:
            connection: Any = pool.get_connection()
        except (redis.RedisError, OSError) as error:
            return [failure_of(error, otherwise=NOT_SENT)]
        clean = False
        try:
            connection.send_packed_command(connection.pack_commands(step.lines))
            replies = [_receive(connection, until_s) for _ in step.lines]
            clean = True
            return replies
        except (redis.RedisError, OSError) as error:
            return [failure_of(error)]
        finally:
            if not clean:
                connection.disconnect()
            pool.release(connection)

    def close(self) -> None:
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def _pool(self, place: Address) -> redis.ConnectionPool:
        with self._lock:
            if place not in self._pools:
                options = connection_options(place, self._password)
                self._pools[place] = redis.ConnectionPool(
                    **options, socket_timeout=CONNECT_S, retry=Retry(NoBackoff(), 0)
                )
            return self._pools[place]


def _receive(connection: Any, until_s: float) -> Reply:
    """Raises `redis.RedisError`, `OSError`: the connection is of no more use."""
    if not connection.can_read(max(0.0, until_s - time.monotonic())):
        raise TimeoutError
    try:
        return told(connection.read_response())
    except redis.ResponseError as error:
        return failure_of(error)
