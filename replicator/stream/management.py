"""Enables, disables and resets the change stream of a cluster. Everything here blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from replicator.errors import ConfigError
from replicator.log.kafka.topic import changes_topic
from replicator.stream.envelope import StreamFormat
from replicator.stream.registry import register_schemas
from replicator.stream.settings import Backfill, Progress, StreamSettings, StreamState
from replicator.stream.state_topic import KafkaAccess, StreamWriter, read_state
from replicator.stream.topics import create_topics, delete_topics


class StartFrom(StrEnum):
    EARLIEST = "earliest"  # all changes since the first record of the log
    LATEST = "latest"  # changes from now on
    SNAPSHOT = "snapshot"  # the content of a snapshot that is taken now, then the changes after it


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Of a new stream. None: the default."""

    start_from: StartFrom | None = None
    format: StreamFormat | None = None
    partitions: int | None = None
    compacted: bool | None = None
    retention_ms: int | None = None
    registry: str | None = None

    def check(self) -> None:
        """Raises `ConfigError`."""
        if self.registry and self.format is not StreamFormat.AVRO:
            raise ConfigError("a schema registry is for Avro: set the format to avro")
        if self.retention_ms is not None and self.compacted:
            raise ConfigError("a compacted topic keeps the last change of each key: leave out the retention")

    @property
    def are_given(self) -> bool:
        return self != StreamOptions()


@dataclass(frozen=True, slots=True)
class StreamStart:
    """Where a new stream begins."""

    progress: Progress
    backfill: Backfill | None = None


def create(kafka: KafkaAccess, options: StreamOptions, start: StreamStart) -> StreamState:
    """Create the topics of the stream, and enable it. Raises `BrokerUnavailable`, `ConfigError`."""
    form = options.format or StreamFormat.JSON
    registry = register_schemas(options.registry, changes_topic(kafka.cluster)) if options.registry else None
    topic_id, log_id = create_topics(
        kafka,
        partitions=options.partitions or 1,
        compacted=bool(options.compacted),
        retention_ms=options.retention_ms,
    )
    settings = StreamSettings(
        topic_id,
        log_id,
        form,
        compacted=bool(options.compacted),
        registry=registry,
        backfill=start.backfill,
    )
    writer = StreamWriter(kafka)
    writer.open()
    writer.commit(progress=start.progress, settings=settings)
    return StreamState(settings, start.progress)


def set_enabled(kafka: KafkaAccess, enabled: bool) -> StreamState:
    """The publisher that runs is fenced, and finds the new settings. Raises `BrokerUnavailable`, `ConfigError`."""
    if read_state(kafka) is None:
        raise ConfigError("there is no change stream: `replicator stream enable` creates one")
    writer = StreamWriter(kafka)
    writer.open()
    state = read_state(kafka)  # again: the publisher may have committed in between
    assert state is not None
    settings = replace(state.settings, enabled=enabled)
    writer.commit(settings=settings)
    return StreamState(settings, state.progress)


def reset(kafka: KafkaAccess) -> None:
    """Delete the topic of changes and the state of the stream. Raises `BrokerUnavailable`, `ConfigError`."""
    if read_state(kafka) is not None:
        StreamWriter(kafka).open()
    delete_topics(kafka)
