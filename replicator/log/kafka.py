"""The log and the acks on Apache Kafka, on the node's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, LogTrimmed
from replicator.log.kafka_admin import TopicLookup
from replicator.log.kafka_cursor import Cursor, OffsetGone
from replicator.log.kafka_partition import (
    ACKS_ALL,
    ACKS_LEADER,
    EARLIEST,
    LATEST,
    CorruptBatch,
    PartitionClient,
    RequestFailed,
    RequestLost,
    encode_batch,
)
from replicator.log.kafka_security import PLAINTEXT, KafkaSecurity
from replicator.log.kafka_topic import TopicGuard, acks_topic, wal_topic
from replicator.log.port import AppendInDoubt, AppendRefused, Entry
from replicator.position import NodeId, Offset

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
RETRY_PAUSE_S = 0.05


@dataclass(frozen=True)
class KafkaOptions:
    append_timeout_ms: int = 2000
    offsets_timeout_ms: int = 2000
    reader_timeout_ms: int = 5000  # of failing requests before a reader gives up
    identity_check_ms: int = 2000
    max_batch_bytes: int = 4 << 20  # at most the topic's max.message.bytes
    fetch_bytes: int = 4 << 20
    fetch_wait_ms: int = 500


DEFAULTS = KafkaOptions()


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
            raise AppendInDoubt(str(error)) from error
        except RequestLost as error:
            raise AppendInDoubt(str(error)) from error
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


class KafkaAcks:
    """`Acks` on the topic `<cluster>.acks`."""

    def __init__(self, client: PartitionClient, cursor: Cursor, node: NodeId, options: KafkaOptions) -> None:
        """Use `open`."""
        self._client = client
        self._cursor = cursor
        self._key = node.encode()
        self._options = options

    @classmethod
    async def open(
        cls,
        bootstrap: str,
        cluster: str,
        node: NodeId,
        *,
        security: KafkaSecurity | None = None,
        options: KafkaOptions = DEFAULTS,
    ) -> Self:
        """Raises `BrokerUnavailable`, also if the topic does not exist."""
        topic = acks_topic(cluster)
        client = PartitionClient(bootstrap, topic, security or PLAINTEXT, options.append_timeout_ms)
        try:
            end = await list_patiently(client, LATEST, options.offsets_timeout_ms)
        except BaseException:
            await client.close()
            raise
        cursor = Cursor(
            PartitionClient(bootstrap, topic, security or PLAINTEXT, options.reader_timeout_ms + options.fetch_wait_ms),
            end,
            patience_ms=options.reader_timeout_ms,
            fetch_wait_ms=options.fetch_wait_ms,
            fetch_bytes=options.fetch_bytes,
        )
        return cls(client, cursor, node, options)

    async def send(self, payload: bytes) -> None:
        batch = encode_batch([payload], self._options.max_batch_bytes, key=self._key)
        if batch is None:
            raise ValueError(f"an ack of {len(payload)} bytes")
        try:
            await self._client.produce(batch, acks=ACKS_LEADER)
        except (RequestFailed, RequestLost) as error:
            raise BrokerUnavailable(f"the ack may be lost: {error}") from error

    async def receive(self) -> Sequence[bytes]:
        while True:
            try:
                entries = await self._cursor.poll()
            except (OffsetGone, CorruptBatch):
                # Expired before they were read, or made anew. The next acks make good for those that are skipped.
                await self.skip()
                continue
            if entries:
                return [entry.payload for entry in entries]

    async def skip(self) -> None:
        self._cursor.seek(await list_patiently(self._client, LATEST, self._options.offsets_timeout_ms))

    async def close(self) -> None:
        await asyncio.gather(self._client.close(), self._cursor.close())


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


async def list_patiently(client: PartitionClient, which: int, timeout_ms: int) -> Offset:
    """Ask for an offset, again and again for `timeout_ms`. Raises `BrokerUnavailable`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    while True:
        try:
            return await client.list_offset(which)
        except (BrokerUnavailable, RequestFailed, RequestLost) as error:
            if loop.time() + RETRY_PAUSE_S >= deadline:
                raise BrokerUnavailable(str(error)) from error
        await asyncio.sleep(RETRY_PAUSE_S)
