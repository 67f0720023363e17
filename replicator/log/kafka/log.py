"""The log and the acks on Apache Kafka, on the node's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, LogTrimmed
from replicator.log.kafka.admin import TopicLookup
from replicator.log.kafka.cursor import Cursor, OffsetGone
from replicator.log.kafka.offsets import list_patiently
from replicator.log.kafka.options import DEFAULTS, KafkaOptions
from replicator.log.kafka.partition import (
    ACKS_ALL,
    EARLIEST,
    LATEST,
    CorruptBatch,
    PartitionClient,
    RequestFailed,
    RequestLost,
    encode_batch,
)
from replicator.log.kafka.security import PLAINTEXT, KafkaSecurity
from replicator.log.kafka.topic import TopicGuard, wal_topic
from replicator.log.port import AppendOutcomeUnknown, AppendRefused, Entry
from replicator.position import Offset

# Answers that Kafka gives only before it has appended anything (ReplicaManager.appendRecords and what it calls), so a
# single request that got one has had no effect. Not here: 3 UNKNOWN_TOPIC_OR_PARTITION, 6 NOT_LEADER_OR_FOLLOWER and
# 56 KAFKA_STORAGE_ERROR, which an append can also get while it waits for its replicas.
REFUSALS = frozenset(
    {
        2,  # CORRUPT_MESSAGE
        10,  # MESSAGE_TOO_LARGE
        17,  # INVALID_TOPIC_EXCEPTION
        18,  # RECORD_LIST_TOO_LARGE
        19,  # NOT_ENOUGH_REPLICAS (20 is the one after append)
        29,  # TOPIC_AUTHORIZATION_FAILED
        31,  # CLUSTER_AUTHORIZATION_FAILED
        32,  # INVALID_TIMESTAMP
        44,  # POLICY_VIOLATION
        87,  # INVALID_RECORD
    }
)


class KafkaLog:
    """`Log` on the topic `<cluster>.wal`."""

    def __init__(self, bootstrap: str, topic: str, security: KafkaSecurity, options: KafkaOptions) -> None:
        """Use `open`."""
        self._options = options
        self._connection = (bootstrap, topic, security)
        self._appender = self._new_client(options.append_timeout_ms)
        self._lister = self._new_client(options.offsets_timeout_ms)
        self._shared_end = SharedRequest(self._ask_end)
        self._known_end = Offset(0)  # every append known to have succeeded lies below
        self._guard: TopicGuard

    @classmethod
    async def open(
        cls, bootstrap: str, cluster: str, *, security: KafkaSecurity | None = None, options: KafkaOptions = DEFAULTS
    ) -> Self:
        """Raises `BrokerUnavailable`, and `ConfigError` if the topic does not exist."""
        topic, lookup = wal_topic(cluster), TopicLookup(bootstrap, security or PLAINTEXT)
        identity = await lookup.topic_id(topic)
        if identity is None:
            raise ConfigError(f"there is no topic {topic} at {bootstrap}: check the cluster's name, or create it first")
        log = cls(bootstrap, topic, security or PLAINTEXT, options)
        log._guard = TopicGuard(topic, identity, lookup.topic_id, options.identity_check_ms)
        try:
            await log.end()
        except BaseException:
            await log.close()
            raise
        return log

    def _new_client(self, timeout_ms: int) -> PartitionClient:
        return PartitionClient(*self._connection, timeout_ms)

    @property
    def identity(self) -> str:
        return self._guard.identity

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        """One record batch, sent once with acks=all."""
        batch = encode_batch(payloads, self._options.max_batch_bytes)
        if batch is None:
            raise AppendRefused(f"the batch is over {self._options.max_batch_bytes} bytes: write less at once")
        if self._guard.damage is not None:
            raise AppendRefused(self._guard.damage)
        try:
            base = await self._appender.produce(batch, acks=ACKS_ALL)
        except BrokerUnavailable as error:  # nothing was sent
            raise AppendRefused(str(error)) from error
        except RequestFailed as error:
            if error.code in REFUSALS:
                raise AppendRefused(str(error)) from error
            raise AppendOutcomeUnknown(str(error)) from error
        except RequestLost as error:
            raise AppendOutcomeUnknown(str(error)) from error
        self._known_end = max(self._known_end, Offset(base + len(payloads)))
        return base

    def reader(self, start: Offset) -> KafkaReader:
        options = self._options
        cursor = Cursor(
            self._new_client(options.reader_timeout_ms + options.fetch_wait_ms),
            start,
            patience_ms=options.reader_timeout_ms,
            fetch_wait_ms=options.fetch_wait_ms,
            fetch_bytes=options.fetch_bytes,
        )
        return KafkaReader(self, cursor, self._guard)

    async def start(self) -> Offset:
        """Also raises `LogDamage`."""
        self._guard.check()
        return await list_patiently(self._lister, EARLIEST, self._options.offsets_timeout_ms)

    async def end(self) -> Offset:
        """Also raises `LogDamage`. Concurrent calls share a request that was sent after each of them."""
        self._guard.check()
        return await self._shared_end()

    async def close(self) -> None:
        await asyncio.gather(self._guard.close(), self._appender.close(), self._lister.close())

    async def _ask_end(self) -> Offset:
        known = self._known_end
        end = await list_patiently(self._lister, LATEST, self._options.offsets_timeout_ms)
        if end < known:
            await self._guard.verify()
            raise BrokerUnavailable(
                f"the broker says the log ends at {end}, but it reached {known} before: "
                "ask again when the leader of its partition is back"
            )
        self._known_end = max(self._known_end, end)
        return end


class KafkaReader:
    """`Reader` on the topic of a `KafkaLog`, which must stay open as long as it."""

    def __init__(self, log: KafkaLog, cursor: Cursor, guard: TopicGuard) -> None:
        self._log = log
        self._cursor = cursor
        self._guard = guard

    async def next(self) -> Sequence[Entry]:
        while True:
            self._guard.check()
            try:
                entries = await self._cursor.poll()
            except OffsetGone:
                await self._explain()
                continue
            except CorruptBatch as error:
                raise LogDamage(f"{error}. Restore the broker's data, or the cluster from a snapshot") from error
            if entries:
                return entries

    def seek(self, offset: Offset) -> None:
        self._cursor.seek(offset)

    async def close(self) -> None:
        await self._cursor.close()

    async def _explain(self) -> None:
        """Why the offset wanted is not there. Returns if it is there after all: the log has grown meanwhile."""
        await self._guard.verify()
        wanted, first, end = self._cursor.position, await self._log.start(), await self._log.end()
        if wanted < first:
            raise LogTrimmed(f"offset {wanted} is gone, the log starts at {first}: start from a newer snapshot")
        if wanted > end:
            raise LogDamage(
                f"offset {wanted} was reached before, but the log ends at {end}: Kafka has lost its tail. "
                "Restore the broker's data, or the cluster from a snapshot"
            )


class SharedRequest:
    """One request in flight for any number of callers; nobody gets an answer to a request sent before the call."""

    def __init__(self, request: Callable[[], Awaitable[Offset]]) -> None:
        self._request = request
        self._sent: asyncio.Task[Offset] | None = None
        self._unsent: asyncio.Task[Offset] | None = None

    async def __call__(self) -> Offset:
        if self._unsent is None:
            self._unsent = asyncio.create_task(self._run(self._sent))
        return await asyncio.shield(self._unsent)  # a caller that gives up leaves the request to the others

    async def _run(self, previous: asyncio.Task[Offset] | None) -> Offset:
        if previous is not None:
            await asyncio.wait([previous])
        self._sent, self._unsent = self._unsent, None
        return await self._request()
