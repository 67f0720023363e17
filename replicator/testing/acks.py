"""The simulated ack topic, as one process uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from replicator.errors import BrokerUnavailable
from replicator.testing.link import Link


class SimAcks:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self._deliver = self._arrived.put_nowait
        link.kafka.ack_channels.append(self._deliver)

    async def send(self, payload: bytes) -> None:
        link, kafka = self._link, self._link.kafka
        await asyncio.sleep(kafka.message_ms() / 1000)
        missing = kafka.loop.time() < kafka.acks_missing_until_s
        if missing or link.down_ms(kafka.partition.leader):
            raise BrokerUnavailable("the broker does not answer")
        if not link.cut:
            kafka.publish_ack(payload)

    async def receive(self) -> Sequence[bytes]:
        return [await self._arrived.get()]

    async def skip(self) -> None:
        while not self._arrived.empty():
            self._arrived.get_nowait()

    async def close(self) -> None:
        self._link.kafka.ack_channels.remove(self._deliver)
