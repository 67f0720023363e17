"""Functions that handle changes, and what is kept of their progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

import replicator.stream
from replicator.errors import BadRequest, BrokerUnavailable, LogDamage
from replicator.limits import MAX_PATTERN_BYTES
from replicator.position import Epoch, Offset, Seq
from replicator.stream import Change, ChangeStream, FileCheckpoints, Op, PostgresCheckpoints, Source
from replicator.stream.handlers import Handlers, Selection
from replicator.stream.management import reset
from replicator.stream.topic_check import TopicCheck
from tests.stream_fixture import PublishedStreams


def change(row: bytes, table: str = "kv") -> Change:
    source = Source("shop", "00" * 16, Epoch(1), Offset(1), Seq(1), 0, 0)
    return Change(Op.CREATE, table, row, None, None, None, source, None)


class TestSelection:
    def test_rows_match_as_in_redis(self) -> None:
        selection = Selection.parse("kv", "user:[0-9]*")
        assert selection.has(change(b"user:17"))
        assert not selection.has(change(b"user:ada"))
        assert not selection.has(change(b"user:17", "other"))

    def test_a_pattern_may_be_bytes(self) -> None:
        assert Selection.parse(None, b"\xff*").has(change(b"\xff\x00"))
        assert Selection.parse(None, b"\xff*".decode(errors="surrogateescape")).has(change(b"\xff\x00"))

    def test_by_default_all_are_wanted(self) -> None:
        for rows in (None, "*"):
            assert Selection.parse(None, rows).has(change(b"\n", "other"))

    def test_a_sql_table(self) -> None:
        selection = Selection.parse("airports", '{"id":1*')
        assert selection.has(change(b'{"id":17}', "airports"))
        assert not selection.has(change(b'{"id":2}', "airports"))
        assert not selection.has(change(b'{"id":17}'))

    def test_a_long_pattern(self) -> None:
        with pytest.raises(BadRequest, match="at most"):
            Selection.parse("kv", "?" * (MAX_PATTERN_BYTES + 1))


async def test_all_functions_that_want_a_change_get_it_in_their_order() -> None:
    handlers, calls = Handlers(), []

    @handlers.on_table("kv", rows="user:*")
    async def user(change: Change) -> None:
        calls.append(("user", change.row))

    @handlers.on_table("kv")
    async def any_row(change: Change) -> None:
        calls.append(("any", change.row))

    for row in (b"user:1", b"page:1"):
        await handlers.handle(change(row))
    assert calls == [("user", b"user:1"), ("any", b"user:1"), ("any", b"page:1")]


class Crash(Exception):
    pass


@pytest.mark.kafka
class TestRun:
    async def test_it_resumes_at_the_checkpoint_and_repeats_what_was_not_saved(
        self, change_stream: PublishedStreams, tmp_path: Path
    ) -> None:
        published = change_stream()
        handled: list[bytes] = []

        async def run(*, crash_at: bytes | None = None) -> None:
            stream = ChangeStream(published.bootstrap, published.cluster, follow=False, consumer="search")

            @stream.on_table("kv")
            async def handle(change: Change) -> None:
                handled.append(change.row)
                if change.row == crash_at:
                    raise Crash

            await stream.run(checkpoints=FileCheckpoints(tmp_path))

        published.publish("SET a 1")
        await run()
        published.publish("SET b 1", "SET c 1", "SET d 1")
        with pytest.raises(Crash):
            await run(crash_at=b"c")
        assert handled == [b"a", b"b", b"c"]
        await run()
        assert handled == [b"a", b"b", b"c", b"b", b"c", b"d"]
        await run()
        assert len(handled) == 6

    async def test_changes_and_position_are_handled_within(
        self, change_stream: PublishedStreams, tmp_path: Path
    ) -> None:
        published = change_stream()
        published.publish("SET a 1", "SET b 1")
        checkpoints, events = FileCheckpoints(tmp_path), []

        @asynccontextmanager
        async def transaction() -> AsyncIterator[None]:
            events.append("begin")
            yield
            events.append(f"commit, saved: {await checkpoints.load('search') is not None}")

        stream = ChangeStream(published.bootstrap, published.cluster, follow=False, consumer="search")

        @stream.on_table("kv")
        async def handle(change: Change) -> None:
            events.append(change.row.decode())

        await stream.run(checkpoints=checkpoints, within=transaction)
        assert events == ["begin", "a", "b", "commit, saved: True"]

    async def test_the_results_of_a_process_are_rolled_back_if_its_successor_has_handled_the_same_changes(
        self, change_stream: PublishedStreams, postgres: str
    ) -> None:
        published = change_stream()
        published.publish("SET a 1", "SET b 1")
        async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as connection:
            await connection.execute("DROP TABLE IF EXISTS replicator_checkpoints, handled")
            await connection.execute("CREATE TABLE handled (row text, by text)")

            async def run(name: str, on_b: Callable[[], Awaitable[None]]) -> None:
                stream = ChangeStream(published.bootstrap, published.cluster, follow=False, consumer="search")
                async with await psycopg.AsyncConnection.connect(postgres, autocommit=True) as own:

                    @stream.on_table("kv")
                    async def handle(change: Change) -> None:
                        await own.execute("INSERT INTO handled VALUES (%s, %s)", (change.row.decode(), name))
                        if change.row == b"b":
                            await on_b()

                    await stream.run(checkpoints=PostgresCheckpoints(own), within=own.transaction)

            async def nothing() -> None:
                pass

            async def successor() -> None:
                await run("successor", nothing)

            with pytest.raises(BadRequest, match="another process of consumer search has gone on"):
                await run("paused", successor)
            handled = await connection.execute("SELECT row, by FROM handled ORDER BY row")
            assert await handled.fetchall() == [("a", "successor"), ("b", "successor")]

    async def test_changes_after_a_reset_are_not_handled_as_if_they_followed(
        self, change_stream: PublishedStreams, tmp_path: Path
    ) -> None:
        published = change_stream()
        published.publish("SET a 1")
        stream = ChangeStream(published.bootstrap, published.cluster, consumer="search")
        handled: list[bytes] = []

        @stream.on_table("kv")
        async def handle(change: Change) -> None:
            handled.append(change.row)
            await asyncio.to_thread(reset, published.kafka)
            again = await asyncio.to_thread(change_stream)
            await asyncio.to_thread(again.publish, *(f"SET new{number} 1" for number in range(9)))

        with pytest.raises(LogDamage, match="was reset while it was read"):
            await stream.run(checkpoints=FileCheckpoints(tmp_path))
        assert handled == [b"a"]
        with pytest.raises(LogDamage, match="of another change stream, as it was reset"):
            await stream.run(checkpoints=FileCheckpoints(tmp_path))

    async def test_it_waits_while_kafka_does_not_say_whether_the_stream_was_reset(
        self, change_stream: PublishedStreams, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        published = change_stream()
        published.publish("SET a 1")
        stream = ChangeStream(published.bootstrap, published.cluster, follow=False, consumer="search")
        confirm, events = TopicCheck.confirm, []

        def failing_twice(check: TopicCheck) -> None:
            events.append("confirm")
            if len(events) < 3:
                raise BrokerUnavailable("Kafka does not answer")
            confirm(check)

        monkeypatch.setattr(TopicCheck, "confirm", failing_twice)

        @stream.on_table("kv")
        async def handle(change: Change) -> None:
            events.append(change.row.decode())

        await stream.run()
        assert events == ["confirm", "confirm", "confirm", "a"]
        warnings = [it.getMessage() for it in caplog.records if it.name == "replicator.stream.aio"]
        assert warnings == ["Kafka does not answer: waiting"]


def test_the_names_of_the_package_exist() -> None:
    for name in replicator.stream.__all__:
        assert getattr(replicator.stream, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Streams'"):
        _ = replicator.stream.Streams
