"""Requests to one partition: produce, fetch, list offsets. Each request is sent once, and its outcome is reported.

This module uses only the connections and codecs of aiokafka, and leaves retries to its callers. aiokafka's producer
retries on its own, so a batch may be appended twice, or long after its caller's timeout. Its consumer hides lost
connections.

A broker processes the requests of one connection in sequence, so an append must not share a connection with a fetch
that waits for records: each `PartitionClient` has its own connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaClient, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from replicator.errors import BrokerUnavailable, ReplicatorError
from replicator.intervals import CLOSE_TIMEOUT_S, METADATA_AGE_MS
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.port import Entry
from replicator.position import Offset

PARTITION = 0
LATEST = -1
EARLIEST = -2
ACKS_ALL = -1
ACKS_LEADER = 1
READ_UNCOMMITTED = 0

OFFSET_OUT_OF_RANGE = 1


class RequestLost(ReplicatorError):
    """The request was sent, at least in part, and got no answer: it may have taken effect."""


class RequestFailed(ReplicatorError):
    """The broker answered with the error `code` of the Kafka protocol."""

    def __init__(self, what: str, code: int) -> None:
        error = for_code(code)
        super().__init__(f"{what}: Kafka error {code} {error.__name__} ({error.description or 'no description'})")
        self.code = code


class CorruptBatch(ReplicatorError):
    """A fetched batch is corrupt."""


class FetchedBatch(NamedTuple):
    """A fetched record batch, not yet decoded. Offsets `base_offset` to `next_offset` - 1, possibly with gaps."""

    base_offset: Offset
    next_offset: Offset
    records: Any  # aiokafka's DefaultRecordBatch: iterate once


def encode_batch(payloads: Sequence[bytes], max_bytes: int, *, key: bytes | None = None) -> bytes | None:
    """The payloads as one record batch, or None if they take more than `max_bytes`."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, max_bytes)
    for index, payload in enumerate(payloads):
        if builder.append(index, None, key, payload, []) is None:
            return None
    if builder.size() > max_bytes:  # the builder accepts a first record of any size
        return None
    return bytes(builder.build())


def split_batches(fetched: bytes) -> list[FetchedBatch]:
    """The batches in a fetch response, without a truncated last one. Raises `CorruptBatch`."""
    records = MemoryRecords(fetched)
    batches = []
    try:
        while records.has_next():
            batch = records.next_batch()
            batches.append(FetchedBatch(Offset(batch.base_offset), Offset(batch.next_offset), batch))
    except KafkaError as error:
        raise CorruptBatch(str(error)) from error
    return batches


def decode_batches(batches: Sequence[FetchedBatch], start: Offset) -> Iterator[Entry]:
    """The entries at or above `start`. Raises `CorruptBatch` when it reaches a corrupt batch."""
    for batch in batches:
        if not batch.records.validate_crc():
            raise CorruptBatch(f"the batch at offset {batch.base_offset} does not match its checksum")
        if batch.records.is_control_batch:
            continue
        try:
            for record in batch.records:
                offset = record.offset
                if offset >= start:
                    yield Entry(offset, record.value or b"")
        except KafkaError as error:
            raise CorruptBatch(f"the batch at offset {batch.base_offset} cannot be decoded: {error}") from error


class PartitionClient:
    """Sends requests to the leader of partition 0 of `topic`. Connects on the first request, and after any failure.

    Every request raises `BrokerUnavailable` (nothing was sent), `RequestLost` or `RequestFailed` within
    `timeout_ms`. A cancelled request counts as lost.
    """

    def __init__(self, bootstrap: str, topic: str, security: KafkaSecurity, timeout_ms: int) -> None:
        self.topic = topic
        self.bootstrap = bootstrap
        self._security = security
        self._timeout_ms = timeout_ms
        self._connecting = asyncio.Lock()
        self._client: AIOKafkaClient | None = None
        self._leader = -1
        self._closing: set[asyncio.Task[None]] = set()

    async def produce(self, batch: bytes, *, acks: int) -> Offset:
        """Append one encoded batch. Returns the offset of its first record."""
        request = ProduceRequest(None, acks, self._timeout_ms, [(self.topic, [(PARTITION, batch)])])
        _, code, base_offset, *_ = await self._request(request, "append")
        self._check(code, "append")
        return Offset(base_offset)

    async def fetch(self, offset: Offset, *, max_wait_ms: int, max_bytes: int) -> list[FetchedBatch]:
        """The batches from the one that contains `offset` on; empty if there are none within `max_wait_ms`."""
        topics = [(self.topic, [(PARTITION, offset, max_bytes)])]
        request = FetchRequest(max_wait_ms, 1, max_bytes, READ_UNCOMMITTED, topics)
        _, code, *_, records = await self._request(request, "read")
        self._check(code, f"read at offset {offset}")
        return split_batches(records)

    async def list_offset(self, which: int) -> Offset:
        """The offset of the first entry (`EARLIEST`), or the one after the last durable entry (`LATEST`)."""
        request = OffsetRequest(-1, READ_UNCOMMITTED, [(self.topic, [(PARTITION, which)])])
        _, code, _, offset = await self._request(request, "list offsets")
        self._check(code, "list offsets")
        return Offset(offset)

    async def close(self) -> None:
        self._drop(self._client)
        if self._closing:
            # a broker that hangs must not block this call
            _, pending = await asyncio.wait(self._closing, timeout=CLOSE_TIMEOUT_S)
            for task in pending:
                task.cancel()

    async def _request(self, request: Any, what: str) -> Sequence[Any]:
        """Send the request once. Returns the part of the answer about the partition."""
        deadline = asyncio.get_running_loop().time() + self._timeout_ms / 1000
        client = await self._connected(deadline)
        try:
            async with asyncio.timeout_at(deadline):
                response = await client.send(self._leader, request)
        except NodeNotReadyError as error:
            self._drop(client)
            raise self._unavailable(error) from error
        except (KafkaError, OSError, TimeoutError) as error:
            self._drop(client)
            why = str(error) or f"no answer within {self._timeout_ms} ms"
            raise RequestLost(f"{what} on {self.topic}: {why}") from error
        except asyncio.CancelledError:
            # the request in flight would delay all later requests of this connection
            self._drop(client)
            raise
        [(_, [partition])] = response.topics
        return partition  # type: ignore[no-any-return]

    async def _connected(self, deadline: float) -> AIOKafkaClient:
        if self._client is not None:
            return self._client
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect(deadline)
            return self._client

    async def _connect(self, deadline: float) -> AIOKafkaClient:
        client = AIOKafkaClient(
            bootstrap_servers=self.bootstrap,
            client_id="replicator",
            request_timeout_ms=self._timeout_ms,
            metadata_max_age_ms=METADATA_AGE_MS,
            **self._security.for_aiokafka(),
        )
        try:
            async with asyncio.timeout_at(deadline):
                await client.bootstrap()
                self._leader = await self._find_leader(client)
        except (KafkaError, OSError, TimeoutError) as error:
            self._drop(client)
            raise self._unavailable(error) from error
        except asyncio.CancelledError:
            self._drop(client)
            raise
        return client

    async def _find_leader(self, client: AIOKafkaClient) -> int:
        # aiokafka's own metadata request would create a missing topic, with the broker's default settings
        request = MetadataRequest([self.topic], allow_auto_topic_creation=False)
        client.cluster.update_metadata(await client.send(client.get_random_node(), request))
        leader = client.cluster.leader_for_partition(TopicPartition(self.topic, PARTITION))
        if leader is None:
            raise KafkaConnectionError(f"topic {self.topic} does not exist, or this login may not use it")
        if leader == -1:
            raise KafkaConnectionError(f"topic {self.topic} has no leader")
        return int(leader)

    def _unavailable(self, error: BaseException) -> BrokerUnavailable:
        why = str(error) or f"no answer within {self._timeout_ms} ms"
        return BrokerUnavailable(
            f"Kafka at {self.bootstrap} is unavailable: {why}. Check the address, and that Kafka is running"
        )

    def _check(self, code: int, what: str) -> None:
        if not code:
            return
        # The broker may no longer be the leader: find the leader again before the next request.
        self._drop(self._client)
        raise RequestFailed(f"{what} on {self.topic}", code)

    def _drop(self, client: AIOKafkaClient | None) -> None:
        """Discard a client and its metadata, unless another request has already done so."""
        if client is None:
            return
        if self._client is client:
            self._client = None
        task = asyncio.get_running_loop().create_task(_close(client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(client: AIOKafkaClient) -> None:
    with contextlib.suppress(KafkaError, OSError):
        await client.close()
