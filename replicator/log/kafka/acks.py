"""The port `Acks` on Apache Kafka, on the event loop of the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from replicator.errors import BrokerUnavailable
from replicator.log.kafka.admin import KafkaAdmin, recreate_acks_topic
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.client_id import client_id_of
from replicator.log.kafka.cursor import Cursor, OffsetOutOfRange
from replicator.log.kafka.offsets import list_offset_with_retry
from replicator.log.kafka.options import DEFAULTS, KafkaOptions
from replicator.log.kafka.partition import (
    ACKS_LEADER,
    CorruptBatch,
    PartitionClient,
    RequestFailed,
    RequestLost,
    encode_batch,
)
from replicator.log.kafka.partition_leader import LeaderLookup
from replicator.log.kafka.requests import LATEST
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.kafka.topic import acks_topic
from replicator.position import NodeId


class KafkaAcks:
    """`Acks` on the topic `<cluster>.acks`."""

    def __init__(
        self, lookup: LeaderLookup, client: PartitionClient, cursor: Cursor, node: NodeId, options: KafkaOptions
    ) -> None:
        """Use `open`."""
        self._lookup = lookup
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
        """A missing topic is created. Raises `BrokerUnavailable`, also if the log does not exist either."""
        admin = KafkaAdmin(bootstrap, security, client_id_of(cluster, node, "admin"))
        brokers = Brokers(bootstrap, security, client_id_of(cluster, node, "acks"))
        lookup = LeaderLookup(brokers, acks_topic(cluster), recreate=lambda: recreate_acks_topic(admin, cluster))
        client = PartitionClient(lookup, options.append_timeout_ms)
        try:
            end = await list_offset_with_retry(client, LATEST, options.offsets_timeout_ms)
        except BaseException:
            client.close()
            await lookup.close()
            raise
        lookup.watch(options.leader_check_ms)
        cursor = Cursor(
            PartitionClient(lookup, options.reader_timeout_ms + options.fetch_wait_ms),
            end,
            retry_timeout_ms=options.reader_timeout_ms,
            fetch_wait_ms=options.fetch_wait_ms,
            fetch_bytes=options.fetch_bytes,
        )
        return cls(lookup, client, cursor, node, options)

    async def send(self, payload: bytes) -> None:
        batch = encode_batch([payload], self._options.max_batch_bytes, [self._key])
        if batch is None:
            raise ValueError(f"an ack of {len(payload)} bytes is too large")
        try:
            await self._client.produce(batch, acks=ACKS_LEADER)
        except (RequestFailed, RequestLost) as error:
            raise BrokerUnavailable(f"the ack may be lost: {error}") from error

    async def receive(self) -> Sequence[bytes]:
        while True:
            try:
                entries = await self._cursor.poll()
            except (OffsetOutOfRange, CorruptBatch):
                # The acks expired before they were read, or the topic was recreated. The next acks make up for them.
                await self.skip()
                continue
            if entries:
                return [entry.payload for entry in entries]

    async def skip(self) -> None:
        self._cursor.seek(await list_offset_with_retry(self._client, LATEST, self._options.offsets_timeout_ms))

    async def close(self) -> None:
        self._client.close()
        await self._cursor.close()
        await self._lookup.close()
