"""Publishes the change stream: reads the log, and writes its accepted changes to the topic `<cluster>.changes`.

Each node of a cluster runs one publisher, in a process of its own. They form a consumer group on the log, which has one
partition, so Kafka assigns it to one of them, and to another when that one stops or does not respond. What is published
and how far is written in one Kafka transaction, by a producer whose id belongs to the cluster: a publisher that takes
over fences the one before, and resumes where the last transaction ended. So each change is published exactly once, also
if a process was paused and does not know that another has taken over.

It blocks, and ends with an error at the first failure: then its process is started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from replicator.errors import ConfigError, LogTrimmed
from replicator.intervals import (
    CREATION_S,
    PROGRESS_S,
    PUBLISHER_REPORT_S,
    PUBLISHER_SESSION_MS,
    STREAM_CHECK_S,
    STREAM_POLL_S,
)
from replicator.limits import BACKFILL_BYTES, FETCH_BYTES, TRANSACTION_CHANGES, TRANSACTION_ENTRIES
from replicator.log.kafka.topic import publishers_group, wal_topic
from replicator.log.port import Entry
from replicator.node.change_stream import PublisherReport, PublisherState
from replicator.position import NodeId, Offset
from replicator.protocol.log_state import LogState
from replicator.store import snapshot
from replicator.stream.command_changes import ChangesOf
from replicator.stream.consumer import OUT_OF_RANGE
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.publication import Publication, StreamMessage
from replicator.stream.settings import Progress, StreamSettings, StreamState
from replicator.stream.state_topic import StreamWriter, read_state
from replicator.stream.tail import published_positions
from replicator.stream.topics import admin_of, check_topics, exists

_POLL_S = 0.05
FETCH_MIN_BYTES, FETCH_GATHER_MS = 1 << 16, 25
"""The broker waits for so much, or for so long: each transaction costs it about 1 ms of CPU time, even a small one."""

Report = Callable[[PublisherReport], None]


class Publisher:
    def __init__(
        self, kafka: KafkaAccess, node: NodeId, snapshots: Path, changes_of_command: ChangesOf, report: Report
    ) -> None:
        """`snapshots`: the folder of this node's. `report` is called about every second."""
        self._kafka = kafka
        self._node = node
        self._snapshots = snapshots
        self._changes_of_command = changes_of_command
        self._report = report
        self._log = wal_topic(kafka.cluster)
        self._admin = admin_of(kafka)
        self._checked_s = 0.0  # when the topics were checked last
        self._term: PublishingTerm | None = None  # while the log is assigned to this publisher
        self._is_enabled = False
        self._idle: PublisherState | None = None  # as last reported
        self._reported_s = 0.0

    def run(self) -> None:
        """Run while there is a change stream. Raises `ReplicatorError`."""
        while (state := self._state()) is not None:
            self._is_enabled = self._may_publish(state)
            if self._is_enabled:
                self._share_log()
            else:
                self._reported(PublisherState.STANDBY if state.settings.enabled else PublisherState.DISABLED)
                time.sleep(STREAM_POLL_S)

    def _state(self) -> StreamState | None:
        """None: there is no change stream. Raises `ReplicatorError`."""
        deadline = time.monotonic() + CREATION_S
        while (state := read_state(self._kafka)) is None and exists(self._admin, self._kafka.cluster):
            if time.monotonic() >= deadline:
                raise ConfigError(
                    "the change stream was not created completely: `replicator stream reset`, then enable it again"
                )
            time.sleep(STREAM_POLL_S)
        return state

    def _reported(self, state: PublisherState) -> None:
        """Report that this publisher does nothing, if that is not known or was reported some time ago."""
        now_s = time.monotonic()
        if state is not self._idle or now_s - self._reported_s >= PUBLISHER_REPORT_S:
            self._idle, self._reported_s = state, now_s
            self._report(PublisherReport(state))

    def _may_publish(self, state: StreamState) -> bool:
        settings, progress = state
        has_snapshot = settings.backfill is None or settings.backfill.node == self._node
        return settings.enabled and (has_snapshot or not progress.backfilling)

    def _share_log(self) -> None:
        """Be a member of the group of publishers, until the stream is disabled."""
        consumer = Consumer(
            {
                **self._kafka.settings("publisher"),
                "group.id": publishers_group(self._kafka.cluster),
                "session.timeout.ms": PUBLISHER_SESSION_MS,
                "partition.assignment.strategy": "cooperative-sticky",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.queue.backoff.ms": 5,
                "fetch.min.bytes": FETCH_MIN_BYTES,
                "fetch.wait.max.ms": FETCH_GATHER_MS,
                "queued.max.messages.kbytes": 4 * FETCH_BYTES >> 10,
            }
        )
        try:
            consumer.subscribe([self._log], on_assign=self._begin, on_revoke=self._end, on_lost=self._end)
            while self._is_enabled:
                self._step(consumer)
        except KafkaException as error:
            raise self._kafka.unavailable(error.args[0]) from None
        finally:
            self._term = None
            consumer.close()

    def _begin(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The log is assigned to this publisher. Raises `ReplicatorError`."""
        if not partitions:
            return
        writer = StreamWriter(self._kafka)
        writer.open()
        state = read_state(self._kafka)  # after the last transaction of the publisher before
        if state is None or not self._may_publish(state):
            self._is_enabled = False
            return
        self._check_topics(state.settings)
        # the state and the topic change in one transaction, but nothing must be published twice, even if a broker
        # that was killed shows the one without the other
        published = published_positions(self._kafka, state.settings)
        publication = Publication(self._kafka.cluster, state.settings, published, self._changes_of_command)
        term = self._term = PublishingTerm(writer, publication, state, self._report)
        first, _ = consumer.get_watermark_offsets(TopicPartition(self._log, 0), timeout=10)
        start = first_to_read(term.log_state, Offset(first))
        consumer.incremental_assign([TopicPartition(self._log, 0, start)])
        if term.is_backfilling:
            consumer.pause(consumer.assignment())

    def _check_topics(self, settings: StreamSettings) -> None:
        """Raises `LogDamage`, `BrokerUnavailable`."""
        check_topics(self._admin, self._kafka.cluster, settings)
        self._checked_s = time.monotonic()

    def _end(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            self._term = None

    def _step(self, consumer: Consumer) -> None:
        entries = self._read(consumer)  # which may begin or end the term
        term = self._term
        if term is None:
            self._reported(PublisherState.STANDBY)
            return
        if time.monotonic() - self._checked_s >= STREAM_CHECK_S:
            self._check_topics(term.settings)
        _, end = consumer.get_watermark_offsets(TopicPartition(self._log, 0), cached=True)
        term.end = Offset(end)
        if term.is_backfilling:
            term.backfill(self._snapshots)
            if not term.is_backfilling:
                consumer.resume(consumer.assignment())
        else:
            term.publish(entries)
        term.report()

    def _read(self, consumer: Consumer) -> list[Entry]:
        """The next entries, or none after a while. Raises `BrokerUnavailable`, `LogTrimmed`."""
        backfilling = self._term is not None and self._term.is_backfilling
        message = consumer.poll(0 if backfilling else _POLL_S)
        if message is None or not self._is_enabled:  # the message may say that no offset was assigned
            return []
        return [self._entry(it) for it in (message, *consumer.consume(TRANSACTION_ENTRIES - 1, 0))]

    def _entry(self, message: Message) -> Entry:
        error, offset = message.error(), message.offset()
        if error is None and offset is not None:
            return Entry(Offset(offset), message.value() or b"")
        assert error is not None
        if error.code() in OUT_OF_RANGE:
            raise LogTrimmed(f"{self._log} has no entry at the offset to publish next: {error.str()}")
        raise self._kafka.unavailable(error)


def first_to_read(state: LogState, first: Offset) -> Offset:
    """Where to read on, if the log begins at `first`: also the last accepted record again, to compare it.

    Raises `LogTrimmed`.
    """
    if state.offset + 1 < first:
        raise LogTrimmed(
            f"the log begins at offset {first}, but is published up to {state.offset} only: the changes between were "
            "deleted. `replicator stream reset` and `replicator stream enable --from snapshot` start anew"
        )
    return max(state.leader_offset, first)


def bounded(entries: Iterable[tuple[bytes, bytes]], most: int, most_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """The first ones, up to these bounds; at least one if there are any."""
    size = 0
    for key, stored in islice(entries, most):
        size += len(key) + len(stored)
        if size > most_bytes and size > len(key) + len(stored):
            return
        yield key, stored


class PublishingTerm:
    """The time for which the log is assigned to this publisher."""

    def __init__(self, writer: StreamWriter, publication: Publication, state: StreamState, report: Report) -> None:
        """`writer` is open, and `state` was read after that."""
        self._writer = writer
        self._publication = publication
        self._settings, self._progress = state
        self._report = report
        self._read_up_to = self._progress.state  # further than the progress while there is nothing to publish
        self._tables = self._progress.tables  # of SQL, there
        self.end = Offset(0)  # of the log, as far as it is known
        self._last_us = 0  # when the last record that was read was written
        self._committed_s = self._reported_s = time.monotonic()
        self._reported_changes = self._progress.changes

    @property
    def settings(self) -> StreamSettings:
        return self._settings

    @property
    def log_state(self) -> LogState:
        """Up to the last entry that was read."""
        return self._read_up_to

    @property
    def is_backfilling(self) -> bool:
        return self._progress.backfilling

    def backfill(self, snapshots: Path) -> None:
        """Publish the next entries of the snapshot. Raises `ReplicatorError`."""
        backfill, progress = self._settings.backfill, self._progress
        assert backfill is not None
        folder = snapshots / backfill.snapshot
        taken_us = snapshot.read_manifest(folder).taken_at_ms * 1000
        entries = list(bounded(snapshot.entries(folder, progress.last_key), TRANSACTION_CHANGES, BACKFILL_BYTES))
        if entries:
            found = self._publication.content(
                progress.state, self._tables, progress.changes, taken_us, entries, _now_ms(), self.report
            )
            self._tables = found.tables
            changes = progress.changes + found.changes
            self._commit(found.messages, progress._replace(changes=changes, last_key=entries[-1][0]))
        else:
            self._commit((), progress._replace(backfilling=False, last_key=b""))

    def publish(self, entries: Sequence[Entry]) -> None:
        """Publish the entries that follow. Raises `ReplicatorError`."""
        while entries:
            published = self._publication.read(
                self._read_up_to, self._tables, entries, _now_ms(), TRANSACTION_CHANGES, self.report
            )
            entries = entries[published.read :]
            self._read_up_to, self._tables = published.state, published.tables
            self._last_us = published.last_us or self._last_us
            if published.messages:
                changes = self._progress.changes + published.changes
                self._commit(published.messages, Progress(published.state, changes))
        if self._read_up_to != self._progress.state and time.monotonic() - self._committed_s >= PROGRESS_S:
            self._commit((), self._progress._replace(state=self._read_up_to))

    def report(self) -> None:
        """If the last time is long enough ago. Called often: one transaction may take long on a busy machine."""
        now_s = time.monotonic()
        if now_s - self._reported_s < PUBLISHER_REPORT_S:
            return
        changes, lag = self._progress.changes, max(0, self.end - self._read_up_to.offset - 1)
        self._report(
            PublisherReport(
                PublisherState.BACKFILLING if self.is_backfilling else PublisherState.PUBLISHING,
                self._read_up_to.offset,
                changes,
                round((changes - self._reported_changes) / (now_s - self._reported_s), 1),
                lag,
                max(0.0, _now_ms() - self._last_us / 1000) if lag and self._last_us else 0.0,
            )
        )
        self._reported_s, self._reported_changes = now_s, changes

    def _commit(self, messages: Sequence[StreamMessage], progress: Progress) -> None:
        """With the SQL tables at that point."""
        progress = progress._replace(tables=self._tables)
        self._writer.commit(messages, progress, stored=self._progress.tables, on_progress=self.report)
        self._progress = progress
        self.report()
        self._committed_s = time.monotonic()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
