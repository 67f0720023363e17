"""Where consumers of the change stream keep their positions: in files, PostgreSQL or Redis."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from replicator.config import checked_name
from replicator.errors import BadRequest, ConfigError
from replicator.store.durable import replace_file
from replicator.stream.position import StreamPosition

if TYPE_CHECKING:
    import psycopg
    import redis.asyncio


class Checkpoints(Protocol):
    """Keeps one position for each name of a consumer."""

    async def load(self, consumer: str) -> StreamPosition | None:
        """None: nothing was saved. Raises `ConfigError` (invalid name, or another program wrote it)."""
        ...

    async def save(
        self, consumer: str, position: StreamPosition, *, after: StreamPosition | None = None, reset: bool = False
    ) -> None:
        """Durable, or part of a transaction of the caller, when it returns.

        `after`: the position that was saved last, from which the changes since were read; None: none was saved.
        Raises `BadRequest` if another one is stored, or the position is behind it or of another stream, unless `reset`,
        and `ConfigError` as `load`. Comparing and saving are one step, whoever saves at the same time.
        """
        ...


def check_follows(
    consumer: str, stored: StreamPosition | None, after: StreamPosition | None, position: StreamPosition
) -> None:
    """Raises `BadRequest` if changes before the position were handled twice, or never."""
    if stored is not None and (
        stored.topic_id != position.topic_id or len(stored.next_offsets) != len(position.next_offsets)
    ):
        raise BadRequest(
            f"the checkpoint of {consumer} is of another change stream: reset it once the consumer has started anew"
        )
    if stored != after:
        raise BadRequest(
            f"another process of consumer {consumer} has gone on, or its checkpoint was reset: it is {_text(stored)} "
            f"instead of {_text(after)}, after which this process has read. Nothing was saved"
        )
    if stored is not None and position.is_behind(stored):
        raise BadRequest(
            f"{consumer} commits backwards: its checkpoint is {_text(stored)}, the position is {_text(position)}. "
            "Reset the checkpoint to go back on purpose"
        )


def _text(position: StreamPosition | None) -> str:
    if position is None:
        return "none"
    return ", ".join(f"{number}:{offset}" for number, offset in enumerate(position.next_offsets))


class FileCheckpoints:
    """A file for each consumer, in a folder that is created if it does not exist."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    async def load(self, consumer: str) -> StreamPosition | None:
        """Raises `ConfigError`."""
        return await asyncio.to_thread(self.load_blocking, consumer)

    async def save(
        self, consumer: str, position: StreamPosition, *, after: StreamPosition | None = None, reset: bool = False
    ) -> None:
        """The file is replaced atomically and synced. Raises `BadRequest`, `ConfigError`."""
        await asyncio.to_thread(self.save_blocking, consumer, position, after=after, reset=reset)

    def load_blocking(self, consumer: str) -> StreamPosition | None:
        """As `load`, for `BlockingChangeStream`."""
        try:
            return _decoded(self._file(consumer).read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error

    def save_blocking(
        self, consumer: str, position: StreamPosition, *, after: StreamPosition | None = None, reset: bool = False
    ) -> None:
        """As `save`, for `BlockingChangeStream`."""
        file = self._file(consumer)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)  # so that no other process saves between the check and the end
                if not reset:
                    check_follows(consumer, self.load_blocking(consumer), after, position)
                replace_file(file, f"{position.encode()}\n".encode())
            finally:
                os.close(folder)
        except OSError as error:
            raise self._unusable(error) from error

    def _file(self, consumer: str) -> Path:
        return self._folder / f"{checked_name('name of a consumer', consumer)}.json"

    def _unusable(self, error: OSError) -> ConfigError:
        return ConfigError(f"checkpoints cannot be kept in {self._folder}: {error.strerror}")


class PostgresCheckpoints:
    """Rows of the table `replicator_checkpoints`, which is created if it does not exist.

    Inside of a transaction of the connection, `save` is part of it: the position is then committed together with the
    results, or not at all. Otherwise it commits by itself.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._has_table = False  # and the transaction that created it has ended

    async def load(self, consumer: str) -> StreamPosition | None:
        """Raises `ConfigError`, and the errors of psycopg."""
        checked_name("name of a consumer", consumer)
        async with self._connection.transaction():
            await self._create_table()
            cursor = await self._connection.execute(
                "SELECT position FROM replicator_checkpoints WHERE consumer = %s", (consumer,)
            )
            row = await cursor.fetchone()
        return None if row is None else _decoded(row[0])

    async def save(
        self, consumer: str, position: StreamPosition, *, after: StreamPosition | None = None, reset: bool = False
    ) -> None:
        """Raises `BadRequest`, `ConfigError`, and the errors of psycopg."""
        checked_name("name of a consumer", consumer)
        async with self._connection.transaction():
            await self._create_table()
            cursor = await self._connection.execute(
                "INSERT INTO replicator_checkpoints VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (consumer, position.encode()),
            )  # waits for a transaction that saves it
            is_first = cursor.rowcount == 1
            if not reset:
                stored = None if is_first else await self._locked(consumer)
                check_follows(consumer, stored, after, position)
            if not is_first:
                await self._connection.execute(
                    "UPDATE replicator_checkpoints SET position = %s WHERE consumer = %s",
                    (position.encode(), consumer),
                )

    async def _locked(self, consumer: str) -> StreamPosition | None:
        """What is stored once no other transaction saves it, until the end of this transaction."""
        cursor = await self._connection.execute(
            "SELECT position FROM replicator_checkpoints WHERE consumer = %s FOR UPDATE", (consumer,)
        )
        row = await cursor.fetchone()
        return None if row is None else _decoded(row[0])

    async def _create_table(self) -> None:
        """Not by IF NOT EXISTS alone, which needs the permission to create tables also if the table exists."""
        if self._has_table:
            return
        cursor = await self._connection.execute("SELECT to_regclass('replicator_checkpoints') IS NOT NULL")
        row = await cursor.fetchone()
        self._has_table = bool(row and row[0])
        if not self._has_table:
            await self._connection.execute(
                "CREATE TABLE IF NOT EXISTS replicator_checkpoints (consumer text PRIMARY KEY, position text NOT NULL)"
            )


class RedisCheckpoints:
    """A string for each consumer, `replicator:checkpoint:NAME`. The client is for asyncio.

    It is as durable as that Redis is. `save` needs WATCH, so one node: the leader, if it is a cluster of replicator.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client: Any = client

    async def load(self, consumer: str) -> StreamPosition | None:
        """Raises `ConfigError`, and the errors of redis-py."""
        return _decoded(await self._client.get(_key(consumer)))

    async def save(
        self, consumer: str, position: StreamPosition, *, after: StreamPosition | None = None, reset: bool = False
    ) -> None:
        """Raises `BadRequest`, `ConfigError`, and the errors of redis-py."""
        key = _key(consumer)

        async def replace(pipeline: Any) -> None:
            if not reset:
                check_follows(consumer, _decoded(await pipeline.get(key)), after, position)
            pipeline.multi()
            pipeline.set(key, position.encode())

        await self._client.transaction(replace, key)


def _key(consumer: str) -> str:
    return f"replicator:checkpoint:{checked_name('name of a consumer', consumer)}"


def _decoded(stored: bytes | str | None) -> StreamPosition | None:
    if stored is None:
        return None
    return StreamPosition.decode(stored if isinstance(stored, str) else stored.decode(errors="replace"))
