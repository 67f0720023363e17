"""Checkpoints in files, PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis.asyncio

from replicator.bench.peers import redis_server
from replicator.errors import BadRequest, ConfigError
from replicator.stream import Checkpoints, FileCheckpoints, PostgresCheckpoints, RedisCheckpoints, StreamPosition
from tests.checkpoint_contract import CheckpointContract, at
from tests.redis_fixture import ServerThread


class TestFiles(CheckpointContract):
    @pytest.fixture
    def checkpoints(self, tmp_path: Path) -> Checkpoints:
        return FileCheckpoints(tmp_path / "new" / "checkpoints")

    async def test_a_crash_while_saving_leaves_the_old_position(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoints = FileCheckpoints(tmp_path)
        await checkpoints.save("search", at(5))
        synced: list[bool] = []

        def crash(source: Path, target: Path) -> None:
            synced.append(source.read_text() == at(6).encode() + "\n")
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "replace", crash)
        with pytest.raises(ConfigError, match=r"checkpoints cannot be kept in .*: Input/output error"):
            await checkpoints.save("search", at(6), after=at(5))
        assert synced == [True]
        assert await checkpoints.load("search") == at(5)

    @pytest.mark.parametrize(
        "content",
        [
            b"hello",
            b"",
            b"\0" * 50,
            b"\xff\xfe",
            b"[" * 100_000,
            b"[]",
            b'{"topic_id": "t"}',
            b'{"topic_id": 5, "next_offsets": [5]}',
            b'{"topic_id": "t", "next_offsets": 5}',
            b'{"topic_id": "t", "next_offsets": {"3": 1}}',
            b'{"topic_id": "t", "next_offsets": [Infinity]}',
            b'{"topic_id": "t", "next_offsets": [NaN]}',
            b'{"topic_id": "t", "next_offsets": [5.5]}',
            b'{"topic_id": "t", "next_offsets": ["5"]}',
            b'{"topic_id": "t", "next_offsets": [true]}',
            b'{"topic_id": "t", "next_offsets": [-5]}',
            b'{"topic_id": "t", "next_offsets": [9223372036854775808]}',
        ],
        ids=lambda content: content[-30:].decode(errors="replace"),
    )
    async def test_a_file_that_is_damaged_or_of_another_program_is_refused(
        self, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "search.json").write_bytes(content)
        for attempt in (FileCheckpoints(tmp_path).load("search"), FileCheckpoints(tmp_path).save("search", at(5))):
            with pytest.raises(ConfigError, match="invalid position of a change stream"):
                await attempt
        assert (tmp_path / "search.json").read_bytes() == content

    async def test_a_folder_that_cannot_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for attempt in (
            FileCheckpoints(tmp_path / "file").load("a"),
            FileCheckpoints(tmp_path / "file").save("a", at(1)),
        ):
            with pytest.raises(
                ConfigError, match=r"checkpoints cannot be kept in .*file: (Not a directory|File exists)"
            ):
                await attempt


class TestPostgres(CheckpointContract):
    @pytest.fixture
    async def connection(self, postgres: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
        async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as connection:
            await connection.execute("DROP TABLE IF EXISTS replicator_checkpoints, results")
            await connection.execute("CREATE TABLE results (value int)")
            yield connection

    @pytest.fixture
    def checkpoints(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> Checkpoints:
        return PostgresCheckpoints(connection)

    async def test_it_takes_part_in_a_transaction_of_the_caller(
        self, connection: psycopg.AsyncConnection[tuple[object, ...]], checkpoints: Checkpoints
    ) -> None:
        for offset, saved, fails in ((1, None, True), (2, None, False), (3, at(2), True)):
            try:
                async with connection.transaction():
                    await connection.execute("INSERT INTO results VALUES (%s)", (offset,))
                    await checkpoints.save("search", at(offset), after=saved)
                    if fails:
                        raise RuntimeError
            except RuntimeError:
                pass
        cursor = await connection.execute("SELECT value FROM results")
        assert await cursor.fetchall() == [(2,)]
        assert await checkpoints.load("search") == at(2)

    async def test_alone_it_commits(self, postgres: str, checkpoints: Checkpoints) -> None:
        async with await psycopg.AsyncConnection.connect(postgres) as other:  # without autocommit
            await PostgresCheckpoints(other).save("search", at(5))
            assert await checkpoints.load("search") == at(5)

    async def test_a_refused_position_does_not_end_the_transaction_of_the_caller(
        self, connection: psycopg.AsyncConnection[tuple[object, ...]], checkpoints: Checkpoints
    ) -> None:
        await checkpoints.save("search", at(5))
        async with connection.transaction():
            with pytest.raises(BadRequest, match="backwards"):
                await checkpoints.save("search", at(4), after=at(5))
            await connection.execute("INSERT INTO results VALUES (1)")
        cursor = await connection.execute("SELECT count(*) FROM results")
        assert await cursor.fetchone() == (1,)

    @pytest.mark.parametrize("stored", [None, at(5)])
    async def test_it_waits_for_a_transaction_of_another_process_and_is_refused_if_that_commits(
        self, postgres: str, checkpoints: Checkpoints, stored: StreamPosition | None
    ) -> None:
        if stored is not None:
            await checkpoints.save("search", stored)
        assert await checkpoints.load("search") == stored  # so that the table exists
        async with (
            await psycopg.AsyncConnection.connect(postgres, autocommit=True) as first,
            await psycopg.AsyncConnection.connect(postgres, autocommit=True) as second,
        ):
            async with first.transaction():
                await PostgresCheckpoints(first).save("search", at(6), after=stored)
                saving = asyncio.ensure_future(PostgresCheckpoints(second).save("search", at(6), after=stored))
                waiting = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
                while await (await first.execute(waiting, (second.info.backend_pid,))).fetchone() == (0,):
                    assert not saving.done()
                    await asyncio.sleep(0)
            with pytest.raises(BadRequest, match="another process of consumer search has gone on"):
                await saving
        assert await checkpoints.load("search") == at(6)

    async def test_a_user_who_may_not_create_tables_can_use_that_of_another(
        self, postgres: str, connection: psycopg.AsyncConnection[tuple[object, ...]], checkpoints: Checkpoints
    ) -> None:
        await checkpoints.save("search", at(5))
        await connection.execute("DROP ROLE IF EXISTS reader")
        await connection.execute("CREATE ROLE reader")
        await connection.execute("GRANT SELECT, INSERT, UPDATE ON replicator_checkpoints TO reader")
        async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as other:
            await other.execute("SET ROLE reader")
            await PostgresCheckpoints(other).save("search", at(6), after=at(5))
        assert await checkpoints.load("search") == at(6)
        await connection.execute("DROP OWNED BY reader")
        await connection.execute("DROP ROLE reader")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a Redis."""
    try:
        with redis_server(tmp_path_factory.mktemp("redis") / "redis") as port:
            yield port
    except ConfigError as error:
        pytest.skip(str(error))


class TestRedis(CheckpointContract):
    @pytest.fixture
    async def checkpoints(self, port: int) -> AsyncIterator[Checkpoints]:
        async with redis.asyncio.Redis(port=port) as client:
            await client.flushall()
            yield RedisCheckpoints(client)

    async def test_a_client_that_decodes_replies(self, port: int, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5))
        async with redis.asyncio.Redis(port=port, decode_responses=True) as client:
            decoding = RedisCheckpoints(client)
            assert await decoding.load("search") == at(5)
            with pytest.raises(BadRequest, match="backwards"):
                await decoding.save("search", at(4), after=at(5))

    async def test_it_is_checked_again_if_another_process_saves_meanwhile(
        self, port: int, checkpoints: Checkpoints
    ) -> None:
        class Overtaken(redis.asyncio.Redis):
            async def transaction(self, func: Any, *watches: Any, **options: Any) -> Any:
                async def replace(pipeline: object) -> None:
                    await func(pipeline)
                    await checkpoints.save("search", at(6), after=at(5))

                return await super().transaction(replace, *watches, **options)

        await checkpoints.save("search", at(5))
        async with Overtaken(port=port) as client:
            with pytest.raises(BadRequest, match="another process"):
                await RedisCheckpoints(client).save("search", at(6), after=at(5))
        assert await checkpoints.load("search") == at(6)


class TestReplicator(CheckpointContract):
    """A node of replicator is a Redis, too."""

    @pytest.fixture
    async def checkpoints(self, server: ServerThread) -> AsyncIterator[Checkpoints]:
        async with redis.asyncio.Redis(port=server.port) as client:
            await client.flushall()
            yield RedisCheckpoints(client)
