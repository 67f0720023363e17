"""Requests for an offset, retried while brokers fail."""

from __future__ import annotations

import asyncio

from replicator.errors import BrokerUnavailable
from replicator.intervals import OFFSETS_RETRY_S
from replicator.log.kafka.partition import PartitionClient, RequestFailed, RequestLost
from replicator.position import Offset


async def list_offset_with_retry(client: PartitionClient, which: int, timeout_ms: int) -> Offset:
    """`client.list_offset`, retried for `timeout_ms`. Raises `BrokerUnavailable`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_ms / 1000
    while True:
        try:
            return await client.list_offset(which)
        except (BrokerUnavailable, RequestFailed, RequestLost) as error:
            if loop.time() + OFFSETS_RETRY_S >= deadline:
                raise BrokerUnavailable(str(error)) from error
        await asyncio.sleep(OFFSETS_RETRY_S)
