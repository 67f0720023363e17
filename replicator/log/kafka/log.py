"""The port `Log` on Apache Kafka, on the event loop of the node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, LogReplaced, LogTrimmed, LogTruncated
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.client_id import client_id_of
from replicator.log.kafka.cursor import Cursor, OffsetOutOfRange
from replicator.log.kafka.offsets import list_offset_with_retry
from replicator.log.kafka.options import DEFAULTS, KafkaOptions
from replicator.log.kafka.partition import (
    ACKS_ALL,
    CorruptBatch,
    PartitionClient,
    RequestFailed,
    RequestLost,
    encode_batch,
)
from replicator.log.kafka.partition_leader import NO_EPOCH, LeaderLookup
from replicator.log.kafka.requests import EARLIEST, LATEST
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.kafka.topic import wal_topic
from replicator.log.kafka.topic_monitor import TopicMonitor
from replicator.log.port import AppendOutcomeUnknown, AppendRefused, Entry, LogExtent
from replicator.position import NodeId, Offset
from replicator.records.kind import kind_of

# Error codes that Kafka returns only before it has appended anything (ReplicaManager.appendRecords and its callees), so
# a request that is sent once and gets one of them has had no effect. Not included: 3 UNKNOWN_TOPIC_OR_PARTITION,
# 6 NOT_LEADER_OR_FOLLOWER and 56 KAFKA_STORAGE_ERROR, which can also occur while an append waits for its replicas.
REFUSALS = frozenset(
    {
        2,  # CORRUPT_MESSAGE
        10,  # MESSAGE_TOO_LARGE
        17,  # INVALID_TOPIC_EXCEPTION
        18,  # RECORD_LIST_TOO_LARGE
        19,  # NOT_ENOUGH_REPLICAS (20 is NOT_ENOUGH_REPLICAS_AFTER_APPEND)
        29,  # TOPIC_AUTHORIZATION_FAILED
        31,  # CLUSTER_AUTHORIZATION_FAILED
        32,  # INVALID_TIMESTAMP
        44,  # POLICY_VIOLATION
        87,  # INVALID_RECORD
    }
)


T = TypeVar("T")


class KnownEnd(NamedTuple):
    epoch: int  # of a leader of the partition
    end: Offset  # that leader has all entries below it


class KafkaLog:
    """`Log` on the topic `<cluster>.wal`."""

    def __init__(self, lookup: LeaderLookup, monitor: TopicMonitor, options: KafkaOptions) -> None:
        """Use `open`. Closes both."""
        self._options = options
        self._lookup = lookup
        self._monitor = monitor
        self._appender = PartitionClient(self._lookup, options.append_timeout_ms)
        self._lister = PartitionClient(self._lookup, options.offsets_timeout_ms)
        self._sizer = PartitionClient(self._lookup, options.offsets_timeout_ms)  # slow, so not on the connection above
        self._shared_end = SharedRequest(self._request_end)
        self._shared_extent = SharedRequest(self._request_extent)
        self._known = KnownEnd(NO_EPOCH, Offset(0))
        self._appended = Offset(0)  # the end of the last append, by this process
        self._appended_to = 0  # `leader_changes` of the appender then

    @classmethod
    async def open(
        cls,
        bootstrap: str,
        cluster: str,
        *,
        node: NodeId | None = None,
        security: KafkaSecurity | None = None,
        options: KafkaOptions = DEFAULTS,
    ) -> Self:
        """`node`: the node that opens it; None: another program.

        Raises `BrokerUnavailable`, and `ConfigError` if the topic does not exist.
        """
        topic, brokers = wal_topic(cluster), Brokers(bootstrap, security, client_id_of(cluster, node, "log"))
        identity = await brokers.topic_id(topic)
        if identity is None:
            raise ConfigError(f"there is no topic {topic} at {bootstrap}: check the cluster name, or create it first")
        lookup = LeaderLookup(brokers, topic, identity)
        log = cls(lookup, TopicMonitor(topic, identity, brokers.topic_id, options.identity_check_ms), options)
        try:
            await log.end()
        except BaseException:
            await log.close()
            raise
        lookup.watch(options.leader_check_ms)
        return log

    @property
    def identity(self) -> str:
        return self._monitor.identity

    async def topic_id(self, topic: str) -> str | None:
        """Of any topic of this Kafka; None if there is no such topic. Raises `BrokerUnavailable`."""
        return await self._lookup.brokers.topic_id(topic)

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        """Sends one record batch, once, with acks=all. Raises `LogTruncated` if the log ends before the last one."""
        batch = encode_batch(payloads, self._options.max_batch_bytes, map(kind_of, payloads))
        if batch is None:
            raise AppendRefused(f"the batch is larger than {self._options.max_batch_bytes} bytes: split it")
        if self._monitor.damage is not None:
            raise AppendRefused(self._monitor.damage)
        try:
            await self._check_next_leader()
            base = await self._appender.produce(batch, acks=ACKS_ALL)
        except BrokerUnavailable as error:  # nothing was sent
            raise AppendRefused(str(error)) from error
        except RequestFailed as error:
            if error.code in REFUSALS:
                raise AppendRefused(str(error)) from error
            raise AppendOutcomeUnknown(str(error)) from error
        except RequestLost as error:
            raise AppendOutcomeUnknown(str(error)) from error
        if base < self._known.end:  # the log has lost entries, or is another one
            with contextlib.suppress(BrokerUnavailable):
                await self._monitor.verify()
        self._appended, self._appended_to = Offset(base + len(payloads)), self._appender.leader_changes
        self._note_end(self._appended, self._appender.leader_epoch)
        return base

    async def _check_next_leader(self) -> None:
        """Before an append to another leader of the partition than the last one: it must have what was appended.

        A record of this node that follows a lost one would stop every reader. Raises `LogTruncated` (once),
        `AppendRefused`, `BrokerUnavailable`.
        """
        await self._appender.connect()
        if self._appender.leader_changes == self._appended_to:
            return
        appended = self._appended  # while the answer is awaited, another append may succeed
        try:
            end = await self._appender.list_offset(LATEST)
        except (RequestFailed, RequestLost) as error:
            raise AppendRefused(str(error)) from error
        if end < appended:
            try:
                await self._monitor.verify()
            except LogReplaced as error:
                raise AppendRefused(str(error)) from error
        self._appended_to = self._appender.leader_changes
        if end < appended:
            self._appended = end
            raise LogTruncated(
                f"this node has written up to offset {appended - 1}, but the log ends at {end}: Kafka has truncated "
                "it. Restore the data of the brokers, or restore the cluster from a snapshot"
            )

    @property
    def leader_changes(self) -> int:
        return self._appender.leader_changes

    def reader(self, start: Offset) -> KafkaReader:
        options = self._options
        cursor = Cursor(
            PartitionClient(self._lookup, options.reader_timeout_ms + options.fetch_wait_ms),
            start,
            retry_timeout_ms=options.reader_timeout_ms,
            fetch_wait_ms=options.fetch_wait_ms,
            fetch_bytes=options.fetch_bytes,
            known_end=lambda: self._known.end,
        )
        return KafkaReader(self, cursor, self._monitor)

    async def start(self) -> Offset:
        """Also raises `LogDamage`."""
        self._monitor.check()
        return await list_offset_with_retry(self._lister, EARLIEST, self._options.offsets_timeout_ms)

    async def end(self) -> Offset:
        """Also raises `LogDamage`. Concurrent calls share a request that was sent after each of them."""
        self._monitor.check()
        return await self._shared_end()

    async def extent(self) -> LogExtent:
        """Also raises `LogDamage`. A caller that gives up interrupts no request, which would close the connection."""
        self._monitor.check()
        return await self._shared_extent()

    async def close(self) -> None:
        await self._shared_end.close()
        await self._shared_extent.close()
        self._appender.close()
        self._lister.close()
        self._sizer.close()
        await asyncio.gather(self._monitor.close(), self._lookup.close())

    async def _request_extent(self) -> LogExtent:
        start = await list_offset_with_retry(self._sizer, EARLIEST, self._options.offsets_timeout_ms)
        try:
            return LogExtent(start, await self._sizer.size_bytes())
        except RequestFailed:
            return LogExtent(start, None)
        except RequestLost as error:
            raise BrokerUnavailable(str(error)) from error

    async def _request_end(self) -> Offset:
        epoch, known = self._known
        end = await list_offset_with_retry(
            self._lister, LATEST, self._options.offsets_timeout_ms, known=known, known_epoch=epoch
        )
        if end < known:
            await self._monitor.verify()
            if self._lister.leader_epoch <= epoch:
                raise BrokerUnavailable(
                    f"the broker reports {end} as the end of the log, but the end was {known} before: "
                    "try again when the leader of the partition is available"
                )
        self._note_end(end, self._lister.leader_epoch)
        return end

    def _note_end(self, end: Offset, epoch: int) -> None:
        """A later leader may have fewer entries: Kafka has lost the others, and readers notice whether they read them.

        It reports no end before it knows which entries all in-sync replicas have (KIP-207).
        """
        if epoch > self._known.epoch:
            self._known = KnownEnd(epoch, end)
        elif epoch == self._known.epoch:
            self._known = KnownEnd(epoch, max(self._known.end, end))


class KafkaReader:
    """`Reader` on the topic of a `KafkaLog`, which must not be closed before it."""

    def __init__(self, log: KafkaLog, cursor: Cursor, monitor: TopicMonitor) -> None:
        self._log = log
        self._cursor = cursor
        self._monitor = monitor

    async def next(self) -> Sequence[Entry]:
        while True:
            self._monitor.check()
            try:
                entries = await self._cursor.poll()
            except OffsetOutOfRange:
                await self._raise_cause()
                continue
            except CorruptBatch as error:
                raise LogDamage(
                    f"{error}. Restore the data of the brokers, or restore the cluster from a snapshot"
                ) from error
            if entries:
                return entries

    @property
    def leader_changes(self) -> int:
        return self._cursor.leader_changes

    def seek(self, offset: Offset) -> None:
        self._cursor.seek(offset)

    async def close(self) -> None:
        await self._cursor.close()

    async def _raise_cause(self) -> None:
        """Raises why the position is out of range. Returns if it is in range now, because the log has grown."""
        await self._monitor.verify()
        position, first, end = self._cursor.position, await self._log.start(), await self._log.end()
        if position < first:
            raise LogTrimmed(f"offset {position} was deleted, the log starts at {first}: start from a newer snapshot")
        if position > end:
            raise LogTruncated(
                f"this node has read up to offset {position - 1}, but the log ends at {end}: Kafka has truncated it. "
                "Restore the data of the brokers, or restore the cluster from a snapshot"
            )


class SharedRequest(Generic[T]):
    """Merges concurrent calls: one request is in flight, and each caller gets the answer of one sent after its call."""

    def __init__(self, request: Callable[[], Awaitable[T]]) -> None:
        self._request = request
        self._sent: asyncio.Task[T] | None = None
        self._unsent: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        if self._unsent is None:
            self._unsent = asyncio.create_task(self._run(self._sent))
            self._unsent.add_done_callback(_retrieve)
        return await asyncio.shield(self._unsent)  # cancelling one caller must not cancel the others

    async def close(self) -> None:
        tasks = [task for task in (self._sent, self._unsent) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, previous: asyncio.Task[T] | None) -> T:
        if previous is not None:
            await asyncio.wait([previous])
        self._sent, self._unsent = self._unsent, None
        return await self._request()


def _retrieve(request: asyncio.Task[Any]) -> None:
    """All callers may have been cancelled."""
    if not request.cancelled():
        request.exception()
