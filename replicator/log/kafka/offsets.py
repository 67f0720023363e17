"""Requests for an offset, retried while brokers fail."""

from __future__ import annotations

import asyncio

from replicator.errors import BrokerUnavailable
from replicator.intervals import OFFSETS_RETRY_S
from replicator.log.kafka.partition import PartitionClient, RequestFailed, RequestLost
from replicator.position import BEFORE_LOG, Offset


async def list_offset_with_retry(
    client: PartitionClient, which: int, timeout_ms: int, *, known: Offset = BEFORE_LOG
) -> Offset:
    """`client.list_offset`, retried for `timeout_ms`, also if a broker that answers less than `known` does not lead.

    Less than `known` if the leader answers that all the time. Raises `BrokerUnavailable`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    while True:
        try:
            offset = await client.list_offset(which)
            if offset >= known or loop.time() + OFFSETS_RETRY_S >= deadline:
                return offset
            client.reconnect()
        except (BrokerUnavailable, RequestFailed, RequestLost) as error:
            if loop.time() + OFFSETS_RETRY_S >= deadline:
                raise BrokerUnavailable(str(error)) from error
        await asyncio.sleep(OFFSETS_RETRY_S)
