"""From entries of the log to messages: the pure part of the publisher."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from replicator.errors import LogDamage
from replicator.log.kafka.security import PLAINTEXT
from replicator.log.port import Entry
from replicator.node.change_stream import PublisherReport, PublisherState
from replicator.position import NodeId, Offset
from replicator.protocol.log_state import LogState
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.dedup import Dedup
from replicator.store.rows import Image
from replicator.stream import publisher, state_topic
from replicator.stream.change import Op
from replicator.stream.command_changes import unknown_changes
from replicator.stream.envelope import StreamFormat
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.publication import Publication, StreamMessage
from replicator.stream.publisher import Publisher, PublishingTerm, bounded
from replicator.stream.settings import Progress, Registry, StreamSettings, StreamState
from replicator.stream.sql_rows import NO_TABLES, Tables
from replicator.stream.state_topic import StreamWriter
from replicator.stream.tail import NOTHING
from tests.change_log import changes_in, check_exactly_once
from tests.memory_cluster import MemoryCluster, submit, until

SETTINGS = StreamSettings("changes", "log", StreamFormat.JSON)
FORMAT = SETTINGS.envelope_format()
ALL = 10**9


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    """Its log has two terms, void entries, groups, and changes of all kinds."""
    cluster = MemoryCluster(tmp_path)
    try:
        await cluster.start("n1")
        leader = await cluster.leader()
        await asyncio.gather(*(leader.write(b"k%d" % number, b"sv") for number in range(5)))
        copied = cluster.log.entries[-1].payload
        transaction = leader.node.begin()
        keyspace = WritableKeyspace(transaction, now_ms=0)
        keyspace.put_fields(b"h", {b"a": b"1", b"b": b"2"})
        keyspace.put_string(b"k0", b"w", expires_at_ms=99_000_000_000_000)
        Dedup(transaction, time_ms=99_000_000_000_000).add(b"id", [b"SET"], b"+OK")
        await submit(leader.node, transaction)
        await leader.stop()
        cluster.log.append_now([b"of another program", b"", copied])
        again = await cluster.start("n1")
        await until(lambda: again.node.leads)
        await asyncio.gather(*(again.write(b"k%d" % number, None) for number in range(3)))
        yield cluster
    finally:
        await cluster.stop()


def published(
    entries: list[Entry], settings: StreamSettings = SETTINGS, partitions: int = 1, limit: int = ALL, at_once: int = 1
) -> tuple[list[StreamMessage], LogState]:
    """By a publisher that reads so many entries at once, and publishes so many changes in a transaction."""
    publication = Publication("test", replace(settings, partitions=partitions))
    state, tables, messages = LogState(), NO_TABLES, list[StreamMessage]()
    while entries:
        part, entries = entries[:at_once], entries[at_once:]
        while part:
            found = publication.read(state, tables, part, now_ms=0, limit=limit)
            assert found.read > 0
            messages += found.messages
            state, tables, part = found.state, found.tables, part[found.read :]
    return messages, state


def test_all_accepted_changes_are_published_once(cluster: MemoryCluster) -> None:
    messages, state = published(cluster.log.entries)
    expected = changes_in("test", cluster.log.entries)
    assert len(expected) == 5 + 4 + 3
    check_exactly_once([FORMAT.decode(value) for _, value, _ in messages if value is not None], expected)
    assert state.offset == cluster.log.entries[-1].offset


@pytest.mark.parametrize("at_once", [1, 2, 7, ALL])
@pytest.mark.parametrize("limit", [1, 3, ALL])
def test_transactions_of_any_size_publish_the_same(cluster: MemoryCluster, limit: int, at_once: int) -> None:
    entries = cluster.log.entries
    assert published(entries, limit=limit, at_once=at_once) == published(entries)


def test_each_restart_goes_on_where_the_progress_is(cluster: MemoryCluster) -> None:
    """Which is stored as JSON, and read again with the last accepted entry, to compare it."""
    whole, end = published(cluster.log.entries)
    for place in range(1, len(cluster.log.entries)):
        before, state = published(cluster.log.entries[:place])
        state = Progress.decode(Progress(state).encode()).state
        first = max(0, state.leader_offset)
        found = Publication("test", SETTINGS).read(state, NO_TABLES, cluster.log.entries[first:], 0, ALL)
        assert before + list(found.messages) == whole
        assert found.state == end


@pytest.mark.parametrize("partitions", [1, 5])
def test_what_is_in_the_topic_already_is_not_published_again(cluster: MemoryCluster, partitions: int) -> None:
    """A publisher that begins too early goes on after the last change of each partition."""
    whole, _ = published(cluster.log.entries, partitions=partitions)
    settings = replace(SETTINGS, partitions=partitions)
    for cut in range(len(whole) + 1):
        tails = [NOTHING] * partitions
        for _, value, partition in whole[:cut]:
            if value is not None:
                tails[partition] = FORMAT.decode(value).position
        found = Publication("test", settings, tails).read(LogState(), NO_TABLES, cluster.log.entries, 0, ALL)
        rest = [it for it in whole[cut:] if it.value is not None]
        assert [it for it in found.messages if it.value is not None] == rest


def test_another_entry_in_place_of_the_last_one_is_damage(cluster: MemoryCluster) -> None:
    _, state = published(cluster.log.entries)
    entry = cluster.log.entries[int(state.leader_offset) - 1]
    with pytest.raises(LogDamage, match="another record"):
        Publication("test", SETTINGS).read(state, NO_TABLES, [entry._replace(offset=state.leader_offset)], 0, ALL)


def test_a_deleted_row_leaves_a_tombstone(cluster: MemoryCluster) -> None:
    messages, _ = published(cluster.log.entries)
    deletes = [place for place, it in enumerate(messages) if it.value and FORMAT.decode(it.value).op is Op.DELETE]
    assert len(deletes) == 3
    for place in deletes:
        assert messages[place + 1] == messages[place]._replace(value=None)


@pytest.mark.parametrize("compacted", [False, True])
def test_changes_of_a_row_share_a_partition(cluster: MemoryCluster, compacted: bool) -> None:
    settings = StreamSettings("changes", "log", StreamFormat.JSON, compacted=compacted)
    messages, _ = published(cluster.log.entries, settings, partitions=5)
    by_row: dict[bytes, set[int]] = {}
    for _, value, partition in messages:
        if value is not None:
            by_row.setdefault(FORMAT.decode(value).row, set()).add(partition)
    assert all(len(partitions) == 1 for partitions in by_row.values())
    assert len(set.union(*by_row.values())) > 1


def test_the_content_of_a_snapshot(cluster: MemoryCluster) -> None:
    machine = cluster.nodes["n1"].machine
    entries = [(key, value) for key, value in machine.view.scan(b"", b"\xff")]
    publication = Publication("test", SETTINGS)
    first = publication.content(machine.state, NO_TABLES, 0, 17, entries[:3], 0)
    rest = publication.content(machine.state, NO_TABLES, first.changes, 17, entries[3:], 0)
    changes = [FORMAT.decode(it.value or b"") for it in (*first.messages, *rest.messages)]
    assert [(it.row, it.field, it.after) for it in changes] == [
        (b"h", None, Image("hash", None)),
        (b"h", b"a", Image("field", b"1")),
        (b"h", b"b", Image("field", b"2")),
        (b"k3", None, Image("string", b"v")),
        (b"k4", None, Image("string", b"v")),
    ]
    assert [it.position for it in changes] == [(machine.state.offset, place) for place in range(len(changes))]
    assert {(it.op, it.before, it.transaction, it.source.timestamp_us) for it in changes} == {(Op.READ, None, None, 17)}


def test_a_part_of_a_snapshot_is_bounded_by_entries_and_bytes() -> None:
    entries = [(b"k%d" % number, b"v" * 98) for number in range(9)]
    assert [*bounded(entries, 4, 10**6)] == entries[:4]
    assert [*bounded(entries, 9, 250)] == entries[:2]
    assert [*bounded(entries, 9, 1)] == entries[:1]
    assert [*bounded([], 9, 1)] == []


def test_settings_are_stored_as_json() -> None:
    settings = StreamSettings("t", "l", StreamFormat.AVRO, registry=Registry("http://r", 1, 2))
    assert StreamSettings.decode(settings.encode()) == settings
    assert StreamSettings.decode(SETTINGS.encode()) == SETTINGS


def test_progress_before_the_first_record_is_stored(cluster: MemoryCluster) -> None:
    progress = Progress(LogState(), backfilling=True, last_key=b"\x00\xff")
    assert Progress.decode(progress.encode()) == progress
    assert Progress(LogState()).state.offset == Offset(-1)


class SlowKafka:
    """Instead of a `StreamWriter`: each transaction takes 2 s."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def commit(
        self, messages: Sequence[StreamMessage], progress: Progress, *, stored: Tables, on_progress: Callable[[], None]
    ) -> None:
        self.now_s += 2


def test_each_transaction_is_reported_although_many_entries_were_read_at_once(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka, reports = SlowKafka(), list[PublisherReport]()
    monkeypatch.setattr(publisher, "TRANSACTION_CHANGES", 1)
    monkeypatch.setattr(publisher, "time", Mock(monotonic=lambda: kafka.now_s, time_ns=lambda: 0))
    state = StreamState(SETTINGS, Progress(LogState()))
    term = PublishingTerm(cast(StreamWriter, kafka), Publication("test", SETTINGS), state, reports.append)
    term.end = Offset(len(cluster.log.entries))
    term.publish(cluster.log.entries)
    assert kafka.now_s == 2 * len(reports) > 2
    assert [it.changes for it in reports] == sorted({it.changes for it in reports})
    assert reports[-1].changes == len(changes_in("test", cluster.log.entries))
    assert {it.state for it in reports} == {PublisherState.PUBLISHING}


def test_the_publisher_reports_within_a_transaction_that_takes_long(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, one large transaction takes longer than a publisher counts as responsive."""
    reports, at = list[PublisherReport](), list[int]()

    class Kafka:
        def commit(self, messages: Sequence[StreamMessage], *_: object, on_progress: Any, **__: object) -> None:
            at.append(len(reports))
            for _message in messages:
                on_progress()
            at.append(len(reports))

    seconds = itertools.count(0, 2)
    monkeypatch.setattr(publisher, "time", Mock(monotonic=lambda: next(seconds), time_ns=lambda: 0))
    state = StreamState(SETTINGS, Progress(LogState()))
    term = PublishingTerm(cast(StreamWriter, Kafka()), Publication("test", SETTINGS), state, reports.append)
    term.publish(cluster.log.entries)
    changes = len(changes_in("test", cluster.log.entries))
    before, after = at
    assert before >= changes and after - before >= changes


class SlowProducer:
    """Of librdkafka: each flush sends 2 messages, until Kafka stops answering after 10."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.unsent = self.sent = 0

    def __len__(self) -> int:
        return self.unsent

    def begin_transaction(self) -> None:
        pass

    def produce(self, *message: object) -> None:
        self.unsent += 1

    def flush(self, timeout_s: float) -> int:
        if self.sent < 10:
            sent = min(2, self.unsent)
            self.sent, self.unsent = self.sent + sent, self.unsent - sent
        return self.unsent

    def commit_transaction(self, timeout_s: float) -> None:
        pass


@pytest.mark.parametrize(("messages", "reports"), [(6, 2), (20, 5)])
def test_a_commit_reports_while_kafka_accepts_messages(
    messages: int, reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_topic, "Producer", SlowProducer)
    writer = StreamWriter(KafkaAccess("127.0.0.1:1", "test", NodeId("n1"), PLAINTEXT))
    calls = list[int]()
    writer.commit([StreamMessage(b"k", b"v", 0)] * messages, on_progress=lambda: calls.append(0))
    assert len(calls) == messages + reports


class AssignedConsumer:
    """It gets the log, and an error if nobody says from where to read it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._assign: Any = None

    def subscribe(self, topics: list[str], *, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self._assign = on_assign

    def poll(self, timeout_s: float) -> Any:
        self._assign(self, ["the log"])
        error = Mock(code=lambda: -168, str=lambda: "no previously committed offset available: Local: No offset stored")
        return Mock(error=lambda: error, offset=lambda: None)

    def consume(self, number: int, timeout_s: float) -> list[Any]:
        return []

    def close(self) -> None:
        pass


def test_a_stream_that_was_reset_ends_its_publishers_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is assigned the log when the one that has published is stopped."""
    monkeypatch.setattr(publisher, "Consumer", AssignedConsumer)
    monkeypatch.setattr(publisher, "StreamWriter", Mock())
    access = KafkaAccess("127.0.0.1:1", "test", NodeId("n1"), PLAINTEXT)
    states = iter([StreamState(SETTINGS, Progress(LogState())), None, None])
    monkeypatch.setattr(publisher, "read_state", lambda kafka: next(states))
    monkeypatch.setattr(publisher, "exists", lambda admin, cluster: False)
    Publisher(access, NodeId("n1"), tmp_path, unknown_changes, lambda report: None).run()
