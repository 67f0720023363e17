"""Requests to one partition: produce, fetch, list offsets. Each request is sent once, and its outcome is reported.

This module uses only the codecs of aiokafka, and leaves retries to its callers. aiokafka's producer
retries on its own, so a batch may be appended twice, or long after its caller's timeout. Its consumer hides lost
connections.

A broker processes the requests of one connection in sequence, so an append must not share a connection with a fetch
that waits for records: each `PartitionClient` has its own connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from replicator.errors import BrokerUnavailable, ReplicatorError
from replicator.log.kafka.authorization import TOPIC_AUTHORIZATION_FAILED, missing_acl
from replicator.log.kafka.broker_connection import Connection
from replicator.log.kafka.failure_text import describe_code, describe_failure
from replicator.log.kafka.partition_leader import NO_EPOCH, LeaderLookup
from replicator.log.kafka.requests import (
    EARLIEST,
    DescribeLogDirs,
    Fetch,
    FetchedRecords,
    ListedOffset,
    ListOffsets,
    LogSize,
    PartitionRequest,
    Produce,
    Produced,
)
from replicator.log.kafka.topic_answers import PartitionLeader
from replicator.log.port import Entry
from replicator.position import Offset

ACKS_ALL = -1
ACKS_LEADER = 1

OFFSET_OUT_OF_RANGE = 1


class RequestLost(ReplicatorError):
    """The request was sent, at least in part, and got no answer: it may have taken effect."""


class RequestFailed(ReplicatorError):
    """The broker answered with the error `code` of the Kafka protocol."""

    def __init__(self, what: str, topic: str, code: int, *, operation: str) -> None:
        """`operation`: that of the ACL which allows the request."""
        denied = code == TOPIC_AUTHORIZATION_FAILED
        why = missing_acl(operation, f"topic {topic}") if denied else describe_code(code)
        super().__init__(f"{what} on {topic}: {why}")
        self.code = code


class CorruptBatch(ReplicatorError):
    """A fetched batch is corrupt."""


class FetchedBatch(NamedTuple):
    """A fetched record batch, not yet decoded. Offsets `base_offset` to `next_offset` - 1, possibly with gaps."""

    base_offset: Offset
    next_offset: Offset
    records: Any  # aiokafka's DefaultRecordBatch: iterate once


def encode_batch(
    payloads: Sequence[bytes], max_bytes: int, keys: Iterable[bytes | None] = repeat(None)
) -> bytes | None:
    """The payloads as one record batch, or None if they take more than `max_bytes`."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, max_bytes)
    for index, (payload, key) in enumerate(zip(payloads, keys, strict=False)):
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
    """Sends requests to the leader of the partition. Connects on the first request, and after any failure.

    Every request raises `BrokerUnavailable` (nothing was sent), `RequestLost` or `RequestFailed` within
    `timeout_ms`. A cancelled request counts as lost.
    """

    def __init__(self, lookup: LeaderLookup, timeout_ms: int) -> None:
        self.leader_changes = 0  # how often a connection was to another leader than the one before
        self._lookup = lookup
        self._topic = lookup.topic.encode()
        self._timeout_ms = timeout_ms
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None
        self._leader: PartitionLeader | None = None  # of the last connection
        lookup.subscribe(self._leave_former_leader)

    @property
    def leader_epoch(self) -> int:
        """Of the leader that has answered the last request."""
        return NO_EPOCH if self._leader is None else self._leader.epoch

    async def connect(self) -> None:
        """Have a connection to the present leader, so that `leader_changes` is up to date before a request."""
        if self._connection is None or not self._is_current(self._connection):
            await self._connected(asyncio.get_running_loop().time() + self._timeout_ms / 1000)

    async def produce(self, batch: bytes, *, acks: int) -> Offset:
        """Append one encoded batch. Returns the offset of its first record."""
        request = Produce(self._topic, batch, acks=acks, timeout_ms=self._timeout_ms)
        produced: Produced = await self._request(lambda epoch: request, "append")
        self._check(produced.code, "append", "Write")
        return produced.base_offset

    async def fetch(self, offset: Offset, *, max_wait_ms: int, max_bytes: int) -> list[FetchedBatch]:
        """The batches from the one that contains `offset` on; empty if there are none within `max_wait_ms`.

        If a quota of the brokers is exceeded, it waits as long as they say.
        """
        while True:
            fetched: FetchedRecords = await self._request(
                lambda epoch: Fetch(self._topic, offset, epoch=epoch, max_wait_ms=max_wait_ms, max_bytes=max_bytes),
                "read",
            )
            self._check(fetched.code, f"read at offset {offset}", "Read")
            if fetched.records or not fetched.throttle_ms:
                return split_batches(fetched.records)
            await asyncio.sleep(fetched.throttle_ms / 1000)

    async def list_offset(self, which: int) -> Offset:
        """The offset of the first entry (`EARLIEST`), or the one after the last durable entry (`LATEST`)."""
        listed: ListedOffset = await self._request(
            lambda epoch: ListOffsets(self._topic, which, epoch=epoch), "list offsets"
        )
        self._check(listed.code, "list offsets", "Describe")
        return listed.offset

    async def size_bytes(self) -> int:
        """Of the log on the disk of the leader. Needs the ACL operation Describe on the Kafka cluster."""
        size: LogSize = await self._request(lambda epoch: DescribeLogDirs(self._topic), "describe the log")
        if size.code:  # the broker may well lead the partition: its connection stays
            raise RequestFailed("describe the log", self._lookup.topic, size.code, operation="Describe")
        return size.size_bytes

    def reconnect(self) -> None:
        """Look the leader up again before the next request: what this one answers shows that it is a former one."""
        self._drop(self._connection)

    def close(self) -> None:
        self._lookup.unsubscribe(self._leave_former_leader)
        self._drop(self._connection)

    def _leave_former_leader(self) -> None:
        """What is in flight is lost: a former leader that is cut off answers an append only after its timeout."""
        if self._leader is not None and self._leader.epoch != self._lookup.epoch:
            self._drop(self._connection)

    async def _request(self, build: Callable[[int], PartitionRequest], what: str) -> Any:
        """Send the request to the leader of that epoch once, and return its answer."""
        deadline = asyncio.get_running_loop().time() + self._timeout_ms / 1000
        connection = await self._connected(deadline)
        try:
            async with asyncio.timeout_at(deadline):
                return await connection.send(build(self.leader_epoch))
        except (KafkaError, OSError, TimeoutError) as error:
            self._drop(connection)
            why = describe_failure(error, self._timeout_ms)
            raise RequestLost(f"{what} on {self._lookup.topic}: {why}") from error
        except asyncio.CancelledError:
            # the request in flight would delay all later requests of this connection
            self._drop(connection)
            raise

    async def _connected(self, deadline: float) -> Connection:
        async with self._connecting:
            if self._connection is None or not self._is_current(self._connection):
                self._drop(self._connection)
                self._connection = await self._connect(deadline)
            return self._connection

    def _is_current(self, connection: Connection) -> bool:
        """Whether it is open, and to the last leader that any client of this partition knows of."""
        assert self._leader is not None
        return connection.connected() and self._leader.epoch == self._lookup.epoch

    async def _connect(self, deadline: float) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                leader = await self._lookup.find()
                connection = await self._lookup.brokers.connect_to_partition(leader.address, self._timeout_ms)
                await self._verify(connection, leader)
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._lookup.brokers.unavailable(describe_failure(error, self._timeout_ms)) from error
        if self._leader is not None and leader != self._leader:
            self.leader_changes += 1
        self._leader = leader
        return connection

    async def _verify(self, connection: Connection, leader: PartitionLeader) -> None:
        """The broker may have been restarted since, and lead in a later epoch: an append does not say in which. Or
        another client of this partition has learned of a later leader.

        Closes the connection and raises `BrokerUnavailable` if so.
        """
        try:
            listed: ListedOffset = await connection.send(ListOffsets(self._topic, EARLIEST, epoch=leader.epoch))
            if listed.code == TOPIC_AUTHORIZATION_FAILED:
                raise BrokerUnavailable(missing_acl("Describe", f"topic {self._lookup.topic}"))
            if listed.code:
                raise BrokerUnavailable(
                    f"broker {leader.node} at {leader.address} does not lead {self._lookup.topic} in epoch "
                    f"{leader.epoch} any more: {describe_code(listed.code)}"
                )
            if leader.epoch != self._lookup.epoch:
                raise BrokerUnavailable(f"broker {leader.node} at {leader.address} is a former leader: try again")
        except BaseException:
            connection.close()
            raise

    def _check(self, code: int, what: str, operation: str) -> None:
        if not code:
            return
        # The broker may no longer be the leader: find the leader again before the next request.
        self._drop(self._connection)
        raise RequestFailed(what, self._lookup.topic, code, operation=operation)

    def _drop(self, connection: Connection | None) -> None:
        """Close a connection, unless another request has already done so."""
        if connection is not None:
            connection.close()
            if self._connection is connection:
                self._connection = None
