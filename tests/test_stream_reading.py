"""Both readers of a change stream: where they begin, end and resume, and what they say if they cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, LogTrimmed
from replicator.log.kafka.topic import changes_topic
from replicator.position import Offset
from replicator.stream import (
    BlockingChangeStream,
    Change,
    ChangeStream,
    Position,
    StreamEnd,
    StreamPosition,
    aio,
    sync,
    topic_check,
)
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.management import reset
from replicator.stream.opening import OpenedStream, open_stream
from replicator.stream.topic_check import TopicCheck
from tests.stream_fixture import PublishedStream, PublishedStreams

pytestmark = pytest.mark.kafka

DEADLINE_S = 20.0


class Reader:
    """One interface for both kinds, that reads to the end."""

    def __init__(self, published: PublishedStream, kind: str) -> None:
        self._published, self._kind = published, kind
        self.position: StreamPosition | None = None  # after the last change

    def rows(self, start: Any = StreamEnd.EARLIEST, limit: int | None = None) -> list[str]:
        return [text(it) for it in self.changes(start, limit)]

    def changes(self, start: Any = StreamEnd.EARLIEST, limit: int | None = None) -> list[Change]:
        """Up to the end; then the stream has no lag."""
        if self._kind == "blocking":
            with self._published.open(start, follow=False) as stream:
                found = list(_first(iter(stream), limit))
                self._note(stream, limit)
            return found
        return asyncio.run(self._async_changes(start, limit))

    def transactions(self, start: Any = StreamEnd.EARLIEST) -> list[list[str]]:
        if self._kind == "blocking":
            with self._published.open(start, follow=False) as stream:
                found = list(stream.transactions())
        else:
            found = asyncio.run(self._async_transactions(start))
        return [[text(change) for change in changes] for changes in found]

    async def _async_changes(self, start: Any, limit: int | None) -> list[Change]:
        async with self._stream(start) as stream:
            found = []
            async for change in stream:
                found.append(change)
                if len(found) == limit:
                    break
            self._note(stream, limit)
        return found

    async def _async_transactions(self, start: Any) -> list[list[Change]]:
        return [it async for it in self._stream(start).transactions()]

    def _stream(self, start: Any) -> ChangeStream:
        return ChangeStream(self._published.bootstrap, self._published.cluster, start, follow=False)

    def _note(self, stream: BlockingChangeStream | ChangeStream, limit: int | None) -> None:
        self.position = stream.position
        if limit is None:
            assert stream.has_ended
            assert stream.lag() == 0


def _first(changes: Iterator[Change], limit: int | None) -> Iterator[Change]:
    for number, change in enumerate(changes, 1):
        yield change
        if number == limit:
            return


def text(change: Change) -> str:
    return f"{change.position} {change.op} {change.row.decode()}"


@pytest.fixture(params=["blocking", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_all_changes_and_then_only_those_after_a_position(change_stream: PublishedStreams, kind: str) -> None:
    published = change_stream()
    published.publish("SET a 1", "SET a 2", "DEL a")
    reader = Reader(published, kind)
    assert reader.rows() == ["1-0 c a", "2-0 u a", "3-0 d a"]
    after_all = reader.position
    assert reader.rows(limit=2) == ["1-0 c a", "2-0 u a"]
    assert reader.rows(reader.position) == ["3-0 d a"]
    assert reader.rows(after_all) == reader.rows(StreamEnd.LATEST) == []
    published.publish("SET b 1")
    assert reader.rows(after_all) == ["4-0 c b"]


def test_from_a_position_in_the_log_and_from_a_time(change_stream: PublishedStreams, kind: str) -> None:
    published = change_stream()
    published.publish(*(f"HSET h{number} a 1" for number in range(20)))
    reader = Reader(published, kind)
    for offset in (1, 2, 7, 19, 20):
        assert reader.rows(Position(Offset(offset), 0))[0] == f"{offset}-0 c h{offset - 1}"
    assert reader.rows(Position(Offset(20), 1)) == ["20-1 c h19"]
    assert reader.rows(Position(Offset(21), 0)) == []
    before, after = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))
    assert (len(reader.rows(before)), reader.rows(after)) == (40, [])
    for before_1970 in ("1969-12-31T23:59:59.999+00:00", "1969-12-31T23:59:59.998+00:00", "1960-01-01T00:00+00:00"):
        assert len(reader.rows(datetime.fromisoformat(before_1970))) == 40


def test_whole_transactions(change_stream: PublishedStreams, kind: str) -> None:
    published = change_stream()
    published.publish("SET a 1", ("SET b 1", "SET c 1", "DEL a"), "SET d 1")
    reader = Reader(published, kind)
    transactions = [["1-0 c a"], ["2-0 c b", "2-1 c c", "2-2 d a"], ["3-0 c d"]]
    assert reader.transactions() == transactions
    assert reader.transactions(Position(Offset(2), 0)) == transactions[1:]
    with pytest.raises(ConfigError, match="position 2-1 is inside of a transaction"):
        reader.transactions(Position(Offset(2), 1))


def test_partitions_have_all_changes_but_no_transactions(change_stream: PublishedStreams, kind: str) -> None:
    published = change_stream(partitions=3)
    published.publish(*(f"SET k{number % 10} {number}" for number in range(60)))
    reader = Reader(published, kind)
    changes = reader.changes()
    assert sorted(it.source.offset for it in changes) == list(range(1, 61))
    for row in {it.row for it in changes}:
        offsets = [it.source.offset for it in changes if it.row == row]
        assert offsets == sorted(offsets)
    assert len(reader.changes(Position(Offset(31), 0))) == 30
    with pytest.raises(ConfigError, match="has 3 partitions"):
        reader.transactions()


def test_a_compacted_topic_has_no_whole_transactions(change_stream: PublishedStreams, kind: str) -> None:
    published = change_stream(compacted=True)
    published.publish("HSET h a 1", "DEL h")
    reader = Reader(published, kind)
    assert len(reader.changes()) == 4
    with pytest.raises(ConfigError, match="is compacted"):
        reader.transactions()


def test_deleted_changes_are_an_error_that_names_the_earliest_one(change_stream: PublishedStreams, kind: str) -> None:
    published = change_stream()
    published.publish("SET a 1")
    reader = Reader(published, kind)
    reader.rows(limit=1)
    stored = reader.position
    published.publish("SET b 1", ("SET c 1", "SET d 1"))
    published.publish("SET e 1")
    delete_before(published.kafka, 4)  # the changes of a and b, and the first one of the transaction
    assert reader.rows() == ["3-1 c d", "4-0 c e"]
    assert reader.transactions() == [["4-0 c e"]]
    with pytest.raises(LogTrimmed, match=r"offset [12] of partition 0 on were.*offset 4: start from the earliest"):
        reader.rows(stored)
    with pytest.raises(LogTrimmed, match=r"changes from 1-0 on were deleted, the earliest one is 3-1"):
        reader.rows(Position(Offset(1), 0))
    assert reader.rows(Position(Offset(4), 0)) == ["4-0 c e"]


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first message is deleted once a reader has found where to begin."""

    def opened(kafka: KafkaAccess, start: Any) -> OpenedStream:
        opened = open_stream(kafka, start)
        delete_before(kafka, 1)
        return opened

    for module in (sync, aio):
        monkeypatch.setattr(module, "open_stream", opened)


@pytest.mark.usefixtures("overtaken")
def test_a_reader_that_is_overtaken_by_the_deletion_says_so(change_stream: PublishedStreams) -> None:
    published = change_stream()
    published.publish("SET a 1")
    with published.open() as stream:
        for _ in range(2):
            with pytest.raises(LogTrimmed, match="next changes in partition 0"):
                stream.read(1, DEADLINE_S)


@pytest.mark.usefixtures("overtaken")
async def test_an_asynchronous_reader_that_is_overtaken_says_so(change_stream: PublishedStreams) -> None:
    published = change_stream()
    published.publish("SET a 1")
    async with ChangeStream(published.bootstrap, published.cluster) as stream:
        for _ in range(2):
            with pytest.raises(LogTrimmed, match="next changes in partition 0"):
                await stream.read(1, DEADLINE_S)


class OpenReader:
    """One interface for both kinds, that reads some changes at a time."""

    def __init__(self, published: PublishedStream, kind: str) -> None:
        self._runner = asyncio.Runner()
        self._stream: BlockingChangeStream | ChangeStream
        if kind == "blocking":
            self._stream = published.open()
        else:
            self._stream = ChangeStream(published.bootstrap, published.cluster)
            self._runner.run(self._stream.open())

    def rows(self) -> list[str]:
        """Waits for changes."""
        stream = self._stream
        if isinstance(stream, BlockingChangeStream):
            return [text(it) for it in stream.read(10, DEADLINE_S)]
        return [text(it) for it in self._runner.run(stream.read(10, DEADLINE_S))]

    def close(self) -> None:
        if isinstance(self._stream, BlockingChangeStream):
            self._stream.close()
        else:
            self._runner.run(self._stream.close())
        self._runner.close()


@pytest.mark.parametrize("published_anew", [0, 9], ids=["before its position", "beyond its position"])
def test_a_stream_that_is_reset_and_enabled_again_while_it_is_read(
    change_stream: PublishedStreams, kind: str, monkeypatch: pytest.MonkeyPatch, published_anew: int
) -> None:
    if published_anew:  # otherwise the reader notices by itself that there is no such offset
        monkeypatch.setattr(topic_check, "IDENTITY_CHECK_MS", 0)
    published = change_stream()
    published.publish("SET a 1", "SET b 1")
    reader = OpenReader(published, kind)
    assert reader.rows() == ["1-0 c a", "2-0 c b"]
    reset(published.kafka)
    change_stream().publish(*(f"SET new{number} 1" for number in range(published_anew)))
    for _ in range(2):
        with pytest.raises(LogDamage, match=r"was reset while it was read: start from the earliest change"):
            reader.rows()
    reader.close()


def test_a_stream_that_is_reset_while_it_is_read(
    change_stream: PublishedStreams, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_check, "IDENTITY_CHECK_MS", 0)
    published = change_stream()
    reader = OpenReader(published, kind)
    reset(published.kafka)
    for _ in range(2):
        with pytest.raises(LogDamage, match=r"was reset while it was read"):
            reader.rows()
    reader.close()


def test_changes_are_kept_while_the_topic_cannot_be_checked(
    change_stream: PublishedStreams, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = change_stream()
    published.publish("SET a 1")
    reader = OpenReader(published, kind)

    def confirm(check: TopicCheck) -> None:
        raise BrokerUnavailable("Kafka does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(topic_check, "IDENTITY_CHECK_MS", 0)
        patch.setattr(TopicCheck, "confirm", confirm)
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="Kafka does not answer"):
                reader.rows()
    assert reader.rows() == ["1-0 c a"]
    reader.close()


def topic_id(published: PublishedStream) -> str:
    with published.open() as stream:
        return stream.position.topic_id


def delete_before(kafka: KafkaAccess, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for done in admin.delete_records([TopicPartition(changes_topic(kafka.cluster), 0, offset)]).values():
        done.result()


def test_a_position_of_a_stream_before_a_reset_is_refused(change_stream: PublishedStreams, kind: str) -> None:
    published = change_stream()
    with pytest.raises(LogDamage, match="of another change stream"):
        Reader(published, kind).rows(StreamPosition("another id", (0,)))
    with pytest.raises(LogDamage, match="of another change stream"):
        Reader(published, kind).rows(StreamPosition(topic_id(published), (0, 0)))
    with pytest.raises(LogDamage, match="offset 7 of partition 0 is after the end, 0, as"):
        Reader(published, kind).rows(StreamPosition(topic_id(published), (7,)))


def test_a_message_of_another_program_stops_the_reader_where_it_is(change_stream: PublishedStreams, kind: str) -> None:
    published = change_stream()
    published.publish("SET a 1")
    published.publish_raw(b"hello")
    published.publish("SET b 1")
    reader = Reader(published, kind)
    assert reader.rows(limit=1) == ["1-0 c a"]
    for start in (StreamEnd.EARLIEST, reader.position):
        with pytest.raises(LogDamage, match=r"offset 2 of partition 0 .* is not a change: another program wrote it"):
            reader.rows(start)


def test_there_must_be_a_change_stream(kafka: str, kafka_cluster: str) -> None:
    with pytest.raises(ConfigError, match="has no change stream: `replicator stream enable`"):
        BlockingChangeStream(kafka, kafka_cluster)
    with pytest.raises(ConfigError, match="has no change stream"):
        asyncio.run(ChangeStream(kafka, kafka_cluster).open())


def test_reads_end_at_the_timeout(change_stream: PublishedStreams) -> None:
    published = change_stream()
    with published.open() as stream:
        assert stream.read(1, 0.01) == []
        published.publish("SET a 1", "SET b 1")
        assert [text(it) for it in stream.read(1, DEADLINE_S)] == ["1-0 c a"]
        assert [text(it) for it in stream.read(5, DEADLINE_S)] == ["2-0 c b"]


async def test_asynchronous_reads_end_at_the_timeout(change_stream: PublishedStreams) -> None:
    published = change_stream()
    stream = ChangeStream(published.bootstrap, published.cluster)
    with pytest.raises(ConfigError, match="not open"):
        await stream.read(1)
    with pytest.raises(ConfigError, match="not open"):
        _ = stream.position
    async with stream:
        assert await stream.read(1, 0.01) == []
        await asyncio.to_thread(published.publish, "SET a 1", "SET b 1")
        assert [text(it) for it in await stream.read(1, DEADLINE_S)] == ["1-0 c a"]
        assert [text(it) for it in await stream.read(5, DEADLINE_S)] == ["2-0 c b"]
        with pytest.raises(ConfigError, match="open already"):
            await stream.open()


async def test_following_waits_for_changes(change_stream: PublishedStreams) -> None:
    published = change_stream()
    published.publish("SET a 1")
    found = []
    async for change in ChangeStream(published.bootstrap, published.cluster):
        found.append(text(change))
        if len(found) == 3:
            break
        await asyncio.to_thread(published.publish, f"SET b{len(found)} 1")
    assert found == ["1-0 c a", "2-0 c b1", "3-0 c b2"]


def test_no_kafka() -> None:
    with pytest.raises(BrokerUnavailable, match=r"Kafka at 127\.0\.0\.1:9 does not answer"):
        BlockingChangeStream("127.0.0.1:9", "shop")
    with pytest.raises(BrokerUnavailable, match=r"Kafka at 127\.0\.0\.1:9 does not answer"):
        asyncio.run(ChangeStream("127.0.0.1:9", "shop").open())
