"""What a change stream should contain, read from the log itself, and whether it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, TopicPartition

from replicator.log.kafka.topic import wal_topic
from replicator.log.port import Entry
from replicator.position import Offset
from replicator.protocol.acceptance import judge, skip
from replicator.protocol.log_state import LogState
from replicator.records.codec import NotARecord, RecordCodec
from replicator.stream.change import Change, Position, changes_of
from replicator.stream.sql_rows import NO_TABLES, tables_after_record


def changes_in(cluster: str, entries: Iterable[Entry]) -> list[Change]:
    """The changes of the accepted records of a whole log."""
    codec, state, tables, found = RecordCodec(), LogState(), NO_TABLES, list[Change]()
    for offset, payload in entries:
        try:
            record = codec.decode(payload, state.timeline)
        except NotARecord:
            state = skip(state, offset)
            continue
        state, void = judge(state, offset, record)
        if void is None:
            found += changes_of(cluster, offset, record, tables)
            tables = tables_after_record(tables, record)
    return found


def read_log(bootstrap: str, cluster: str) -> list[Entry]:
    """All of it, as of now. Blocks."""
    partition = TopicPartition(wal_topic(cluster), 0, 0)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False})
    try:
        _, end = consumer.get_watermark_offsets(partition, timeout=10)
        consumer.assign([partition])
        entries: list[Entry] = []
        while not entries or entries[-1].offset < end - 1:
            for message in consumer.consume(1000, 0.2):
                assert message.error() is None
                entries.append(Entry(Offset(message.offset() or 0), message.value() or b""))
        return entries
    finally:
        consumer.close()


def describe_twice(published: Sequence[Change]) -> str:
    """How many, and when the copies of the first ones were published, with their places in the stream."""
    copies: dict[Position, list[tuple[int, int]]] = {}
    for place, change in enumerate(published):
        copies.setdefault(change.position, []).append((place, change.published_ms))
    twice = {str(position): it for position, it in copies.items() if len(it) > 1}
    return f"{len(twice)} changes, such as {dict(list(twice.items())[:3])} and {dict(list(twice.items())[-3:])}"


def check_exactly_once(published: Sequence[Change], expected: Sequence[Change]) -> None:
    """Each change once, and those of a row in the order of the log."""
    unstamped = [change._replace(published_ms=0) for change in published]
    found = {change.position: change for change in unstamped}
    assert len(found) == len(unstamped), f"published twice: {describe_twice(published)}"
    wanted = {change.position: change for change in expected}
    assert found.keys() >= wanted.keys(), f"not published: {sorted(wanted.keys() - found.keys())[:5]}"
    assert found == wanted
    last: dict[bytes, Position] = {}
    for change in unstamped:
        assert last.get(change.row, Position(Offset(-1), 0)) < change.position, "out of order"
        last[change.row] = change.position
