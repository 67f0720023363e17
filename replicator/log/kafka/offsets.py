"""Requests for an offset, retried while brokers fail."""

from __future__ import annotations

import asyncio

from replicator.errors import BrokerUnavailable
from replicator.intervals import OFFSETS_RETRY_S
from replicator.log.kafka.partition import PartitionClient, RequestFailed, RequestLost
from replicator.log.kafka.partition_leader import NO_EPOCH
from replicator.position import BEFORE_LOG, Offset


async def list_offset_with_retry(
    client: PartitionClient,
    which: int,
    timeout_ms: int,
    *,
    known: Offset = BEFORE_LOG,
    known_epoch: int = NO_EPOCH,
) -> Offset:
    """`client.list_offset`, retried for `timeout_ms`, also if a broker that answers less than `known` does not lead.

    Less than `known` if the leader answers that all the time, or is of a later epoch than `known_epoch`. Raises
    `BrokerUnavailable`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    while True:
        try:
            offset = await client.list_offset(which)
            later = client.leader_epoch > known_epoch
            if offset >= known or later or loop.time() + OFFSETS_RETRY_S >= deadline:
                return offset
            client.reconnect()
        except (BrokerUnavailable, RequestFailed, RequestLost) as error:
            if loop.time() + OFFSETS_RETRY_S >= deadline:
                raise BrokerUnavailable(str(error)) from error
        await asyncio.sleep(OFFSETS_RETRY_S)
