"""Enables, disables and resets the change stream of a cluster. Everything here blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlsplit

from replicator import __version__
from replicator.errors import BadRequest, ConfigError
from replicator.limits import MAX_RETENTION_MS, MAX_STREAM_PARTITIONS
from replicator.log.kafka.topic import changes_topic
from replicator.stream.envelope import StreamFormat
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.registry import register_schemas
from replicator.stream.settings import STATE_VERSION, Backfill, Progress, StreamSettings, StreamState
from replicator.stream.state_topic import Fenced, StreamWriter, read_state
from replicator.stream.topics import create_topics, delete_topics

FENCED_ATTEMPTS = 5

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")


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

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> StreamOptions:
        """From JSON. Raises `BadRequest`, `ConfigError`."""
        unknown = fields.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise BadRequest(f"unknown option {min(unknown)}: expected {', '.join(cls.__dataclass_fields__)}")
        _check_url(fields.get("registry"))
        options = cls(
            _choice("start_from", fields.get("start_from"), StartFrom),
            _choice("format", fields.get("format"), StreamFormat),
            _number("partitions", fields.get("partitions"), MAX_STREAM_PARTITIONS),
            _of_type("compacted", fields.get("compacted"), bool, "true or false"),
            _number("retention_ms", fields.get("retention_ms"), MAX_RETENTION_MS),
            _of_type("registry", fields.get("registry"), str, "a URL"),
        )
        options._check()
        return options

    def _check(self) -> None:
        if self.registry and self.format is not StreamFormat.AVRO:
            raise ConfigError("a schema registry is for Avro: set the format to avro")
        if self.retention_ms is not None and self.compacted:
            raise ConfigError("a compacted topic keeps the last change of each key: leave out the retention")

    def check_none_given(self) -> None:
        """Raises `ConfigError`: the stream exists, and its options do not change."""
        given = [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]
        if given:
            raise ConfigError(
                f"the change stream exists, and keeps the options that it was created with: leave out {given[0]} to "
                "enable it again, or delete it by `replicator stream reset`"
            )


def _check_url(value: Any) -> None:
    """The error does not show it, as it may contain a password."""
    if value is None:
        return
    try:
        parts = urlsplit(value)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except (ValueError, TypeError, AttributeError):
        is_valid = False
    if not is_valid:
        raise BadRequest("invalid registry: expected the URL of a schema registry, such as http://127.0.0.1:8081")


def _choice(name: str, value: Any, choices: type[E]) -> E | None:
    if value is None:
        return None
    try:
        return choices(value)
    except ValueError:
        raise BadRequest(f"invalid {name} {value!r}: expected {', '.join(choices)}") from None


def _of_type(name: str, value: Any, kind: type[T], expected: str) -> T | None:
    if value is not None and type(value) is not kind:
        raise BadRequest(f"invalid {name} {value!r}: expected {expected}")
    return value


def _number(name: str, value: Any, largest: int) -> int | None:
    number = _of_type(name, value, int, f"a number from 1 to {largest}")
    if number is not None and not 1 <= number <= largest:
        raise BadRequest(f"invalid {name} {number}: expected a number from 1 to {largest}")
    return number


@dataclass(frozen=True, slots=True)
class StreamStart:
    """Where a new stream begins."""

    progress: Progress
    backfill: Backfill | None = None


def create(kafka: KafkaAccess, options: StreamOptions, start: StreamStart) -> StreamState:
    """Create the topics of the stream, and enable it. Raises `BrokerUnavailable`, `ConfigError`."""
    form = options.format or StreamFormat.JSON
    registry = register_schemas(options.registry, changes_topic(kafka.cluster)) if options.registry else None
    partitions = options.partitions or 1
    topic_id, log_id = create_topics(
        kafka,
        partitions=partitions,
        compacted=bool(options.compacted),
        retention_ms=options.retention_ms,
    )
    settings = StreamSettings(
        topic_id,
        log_id,
        form,
        partitions,
        compacted=bool(options.compacted),
        registry=registry,
        backfill=start.backfill,
    )
    return _while_fenced(lambda: _enable(kafka, settings, start.progress))


def _enable(kafka: KafkaAccess, settings: StreamSettings, progress: Progress) -> StreamState:
    writer = StreamWriter(kafka)
    writer.open()
    state = read_state(kafka)
    if state is None:
        writer.commit(progress=progress, settings=settings)
        return StreamState(settings, progress)
    if state.settings.topic_id != settings.topic_id:
        raise ConfigError("another command has created the change stream: see `replicator stream status`")
    return state  # an attempt before this one has committed, and only the reply was lost


def set_enabled(kafka: KafkaAccess, enabled: bool) -> StreamState:
    """The publisher that runs is fenced, and finds the new settings. Raises `BrokerUnavailable`, `ConfigError`."""
    return _while_fenced(lambda: _set_enabled(kafka, enabled))


def _while_fenced(attempt: Callable[[], StreamState]) -> StreamState:
    """A publisher that begins fences any other writer, also if the stream for which it begins has been reset."""
    for _ in range(FENCED_ATTEMPTS - 1):
        with contextlib.suppress(Fenced):
            return attempt()
    return attempt()


def _set_enabled(kafka: KafkaAccess, enabled: bool) -> StreamState:
    if read_state(kafka) is None:
        raise ConfigError("there is no change stream: `replicator stream enable` creates one")
    writer = StreamWriter(kafka)
    writer.open()
    state = read_state(kafka)  # again: the publisher may have committed in between
    if state is None:
        raise ConfigError("the change stream was reset meanwhile: `replicator stream enable` creates one")
    settings = replace(state.settings, enabled=enabled, version=STATE_VERSION, written_by=__version__)
    writer.commit(settings=settings)
    return StreamState(settings, state.progress)


def reset(kafka: KafkaAccess) -> None:
    """Delete the topic of changes and the state of the stream. Raises `BrokerUnavailable`, `ConfigError`."""
    if read_state(kafka) is not None:
        with contextlib.suppress(Fenced):  # another command changes it now
            set_enabled(kafka, False)  # so that no publisher writes to the topics while they are deleted
    delete_topics(kafka)
