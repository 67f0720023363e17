"""Opens a change stream for reading: finds its settings, and where to begin in each partition. Everything here blocks.

It reads with librdkafka, also for the stream on aiokafka, which calls it in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from confluent_kafka import Consumer, KafkaException, TopicPartition

from replicator.errors import ConfigError, LogDamage, LogTrimmed
from replicator.intervals import ADMIN_TIMEOUT_S
from replicator.log.kafka.topic import changes_topic
from replicator.stream.change import Position
from replicator.stream.consumer import (
    FROM_EARLIEST,
    LOOKUP_WAIT_MS,
    OUT_OF_RANGE,
    consumer_settings,
    foreign_error,
    read_between,
    read_error,
    trimmed_error,
)
from replicator.stream.envelope import NotAChange
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.position import Start, StreamEnd, StreamPosition
from replicator.stream.settings import StreamSettings
from replicator.stream.state_topic import read_state
from replicator.stream.topic_check import check_changes


@dataclass(frozen=True, slots=True)
class OpenedStream:
    topic: str
    settings: StreamSettings
    start: StreamPosition
    is_exact: bool  # the reader named a position, so what follows may be the rest of a transaction
    ends: tuple[int, ...]  # of the partitions, as of now

    @property
    def partitions(self) -> range:
        return range(len(self.ends))


def open_stream(kafka: KafkaAccess, start: Start) -> OpenedStream:
    """Raises `ConfigError` (there is no change stream), `LogTrimmed`, `LogDamage`, `BrokerUnavailable`."""
    state = read_state(kafka)
    if state is None:
        raise ConfigError(f"cluster {kafka.cluster} has no change stream: `replicator stream enable` creates one")
    check_changes(kafka, state.settings)
    lookup = _Lookup(kafka, state.settings)
    try:
        bounds = lookup.bounds()
        position = StreamPosition(state.settings.topic_id, lookup.offsets(start, bounds))
    except KafkaException as error:
        raise read_error(kafka, error.args[0]) from None
    finally:
        lookup.close()
    is_exact = isinstance(start, Position | StreamPosition)
    return OpenedStream(
        changes_topic(kafka.cluster), state.settings, position, is_exact, tuple(end for _, end in bounds)
    )


Bounds = Sequence[tuple[int, int]]
"""The first offset and the end of each partition."""


class _Lookup:
    """Finds where to begin in each partition."""

    def __init__(self, kafka: KafkaAccess, settings: StreamSettings) -> None:
        self._kafka = kafka
        self._settings = settings
        self._format = settings.envelope_format()
        topic = changes_topic(kafka.cluster)
        self._partitions = [TopicPartition(topic, number) for number in range(settings.partitions)]
        self._consumer = Consumer({**consumer_settings(kafka, "lookup"), "fetch.wait.max.ms": LOOKUP_WAIT_MS})

    def close(self) -> None:
        self._consumer.close()

    def bounds(self) -> Bounds:
        return [self._consumer.get_watermark_offsets(it, timeout=ADMIN_TIMEOUT_S) for it in self._partitions]

    def offsets(self, start: Start, bounds: Bounds) -> tuple[int, ...]:
        match start:
            case StreamEnd.EARLIEST:
                return tuple(first for first, _ in bounds)
            case StreamEnd.LATEST:
                return tuple(end for _, end in bounds)
            case StreamPosition():
                return self._checked(start, bounds)
            case datetime():
                return self._at(start, bounds)
            case Position():
                return self._first_from(start, bounds)

    def _checked(self, start: StreamPosition, bounds: Bounds) -> tuple[int, ...]:
        if start.topic_id != self._settings.topic_id or len(start.next_offsets) != len(bounds):
            raise LogDamage(f"the position is of another change stream, as it was reset since: {FROM_EARLIEST}")
        for number, (offset, (first, end)) in enumerate(zip(start.next_offsets, bounds, strict=True)):
            if offset < first:
                raise LogTrimmed(
                    f"the changes from offset {offset} of partition {number} on were deleted, the earliest one is at "
                    f"offset {first}: {FROM_EARLIEST}"
                )
            if offset > end:
                raise LogDamage(
                    f"offset {offset} of partition {number} is after the end, {end}, as the topic of changes was "
                    f"truncated: {FROM_EARLIEST}"
                )
        return start.next_offsets

    def _at(self, moment: datetime, bounds: Bounds) -> tuple[int, ...]:
        at_ms = max(0, int(moment.timestamp() * 1000))  # Kafka gives negative ones meanings of their own
        asked = [TopicPartition(it.topic, it.partition, at_ms) for it in self._partitions]
        found = self._consumer.offsets_for_times(asked, timeout=ADMIN_TIMEOUT_S)
        return tuple(it.offset if it.offset >= 0 else end for it, (_, end) in zip(found, bounds, strict=True))

    def _first_from(self, position: Position, bounds: Bounds) -> tuple[int, ...]:
        self._check_kept(position, bounds)
        return tuple(
            self._bisected(partition, first, end, position)
            for partition, (first, end) in zip(self._partitions, bounds, strict=True)
        )

    def _check_kept(self, position: Position, bounds: Bounds) -> None:
        """Raises `LogTrimmed` if changes from the position on were deleted, or may have been."""
        trimmed = [
            (partition, first, end) for partition, (first, end) in zip(self._partitions, bounds, strict=True) if first
        ]
        kept = [self._next_change(*it) for it in trimmed]
        if any(it is None or position < it[1] for it in kept):
            firsts = [it[1] for it in kept if it is not None]
            earliest = f"the earliest one is {max(firsts)}" if firsts else "none is left"
            raise LogTrimmed(f"changes from {position} on were deleted, {earliest}: {FROM_EARLIEST}")

    def _bisected(self, partition: TopicPartition, first: int, end: int, position: Position) -> int:
        """The first message in [first, end) at or after the position; positions rise with the offsets."""
        low, high = first, end
        while low < high:
            middle = (low + high) // 2
            found = self._next_change(partition, middle, end)
            if found is not None and found[1] < position:
                low = found[0] + 1
            else:
                high = middle
        return low

    def _next_change(self, partition: TopicPartition, offset: int, end: int) -> tuple[int, Position] | None:
        """Of the first change at or after the offset."""
        topic, number = partition.topic, partition.partition
        try:
            for message in read_between(self._kafka, self._consumer, TopicPartition(topic, number, offset), end):
                at, value = message.offset(), message.value()
                if at is not None and value is not None:  # a tombstone has none
                    return at, self._format.decode(value).position
        except NotAChange as wrong:
            raise foreign_error(topic, number, at or 0, wrong) from None
        except KafkaException as error:
            if error.args[0].code() in OUT_OF_RANGE:
                raise trimmed_error(topic, number) from None
            raise
        return None
