"""From entries of the log to messages: the pure part of the publisher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest

from replicator.errors import LogDamage
from replicator.log.port import Entry
from replicator.node.change_stream import PublisherReport, PublisherState
from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.dedup import Dedup
from replicator.store.rows import Image
from replicator.stream import publisher
from replicator.stream.change import Op
from replicator.stream.envelope import StreamFormat
from replicator.stream.publication import Publication, StreamMessage
from replicator.stream.publisher import PublishingTerm, bounded
from replicator.stream.settings import Progress, Registry, StreamSettings, StreamState
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
    state, messages = LogState(), list[StreamMessage]()
    while entries:
        part, entries = entries[:at_once], entries[at_once:]
        while part:
            found = publication.read(state, part, now_ms=0, limit=limit)
            assert found.read > 0
            messages += found.messages
            state, part = found.state, part[found.read :]
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
        found = Publication("test", SETTINGS).read(state, cluster.log.entries[first:], 0, ALL)
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
        found = Publication("test", settings, tails).read(LogState(), cluster.log.entries, 0, ALL)
        rest = [it for it in whole[cut:] if it.value is not None]
        assert [it for it in found.messages if it.value is not None] == rest


def test_another_entry_in_place_of_the_last_one_is_damage(cluster: MemoryCluster) -> None:
    _, state = published(cluster.log.entries)
    entry = cluster.log.entries[int(state.leader_offset) - 1]
    with pytest.raises(LogDamage, match="another record"):
        Publication("test", SETTINGS).read(state, [entry._replace(offset=state.leader_offset)], 0, ALL)


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
    first, count = publication.content(machine.state, 0, 17, entries[:3], 0)
    rest, more = publication.content(machine.state, count, 17, entries[3:], 0)
    changes = [FORMAT.decode(it.value or b"") for it in (*first, *rest)]
    assert [(it.row, it.field, it.after) for it in changes] == [
        (b"h", None, Image("hash", None)),
        (b"h", b"a", Image("field", b"1")),
        (b"h", b"b", Image("field", b"2")),
        (b"k3", None, Image("string", b"v")),
        (b"k4", None, Image("string", b"v")),
    ]
    assert [it.position for it in changes] == [(machine.state.offset, place) for place in range(count + more)]
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

    def commit(self, messages: Sequence[StreamMessage], progress: Progress) -> None:
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
