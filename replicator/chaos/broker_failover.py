"""One failure of a broker under load, and the recovery of the Kafka cluster afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from replicator.chaos.failover import WAIT_S, WARM_WRITES, ClusterUnderLoad, FailoverRun
from replicator.chaos.linear_reads import LinearReaders
from replicator.errors import BrokerUnavailable, ReplicatorError
from replicator.local.kafka.cluster import KafkaCluster
from replicator.log.kafka.quorum import active_controller, in_sync_replicas, partition_leader
from replicator.log.kafka.topic import wal_topic

POLL_S = 0.05


class BrokerEvent(StrEnum):
    KILL = "kill"
    STOP = "stop"
    CUT = "cut"
    CONTROLLER = "controller"
    ROLLING = "rolling"


@dataclass(frozen=True, slots=True)
class BrokersUnderLoad:
    brokers: KafkaCluster
    cluster: ClusterUnderLoad
    readers: LinearReaders

    async def run(self, kind: BrokerEvent) -> FailoverRun:
        """One event under load; returns when all brokers run again and are in sync. Raises `ReplicatorError`."""
        ledger, first, stale_before = self.cluster.ledger, len(self.cluster.ledger), self.readers.stale
        ledger.begin()
        self.cluster.load.resume()
        await self.acknowledged(WARM_WRITES)
        event_s = time.monotonic()
        await EVENTS[kind](self)
        await self.acknowledged(WARM_WRITES)
        pause_s = ledger.longest_gap_s(event_s)
        await self.in_sync()
        await self.cluster.recover()
        stale_reads = self.readers.stale - stale_before
        return FailoverRun(kind, pause_s, range(first, len(ledger)), ledger.failed_twice, stale_reads)

    async def acknowledged(self, count: int) -> None:
        """Wait until so many more writes are acknowledged. Raises `ReplicatorError`."""
        await self.cluster.acknowledged(self.cluster.ledger.acknowledged_elsewhere("") + count, not_by="")

    async def leader(self, *, other_than: int = 0) -> int:
        """The broker that leads the log, once it is another one. Raises `ReplicatorError`."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            try:
                node = await partition_leader(self.brokers.bootstrap(), self._topic)
            except BrokerUnavailable:
                node = other_than
            if node != other_than:
                return node
            await asyncio.sleep(POLL_S)
        raise ReplicatorError(f"no other broker than {other_than} leads {self._topic} after {WAIT_S:.0f} s")

    async def in_sync(self) -> None:
        """Wait until every broker has all of the log. Raises `ReplicatorError`."""
        deadline_s = time.monotonic() + WAIT_S
        bootstrap = self.brokers.bootstrap()
        while await asyncio.to_thread(in_sync_replicas, bootstrap, self._topic) < len(self.brokers.nodes):
            if time.monotonic() > deadline_s:
                raise ReplicatorError(f"not all replicas of {self._topic} are in sync after {WAIT_S:.0f} s")
            await asyncio.sleep(POLL_S)

    @property
    def _topic(self) -> str:
        return wal_topic(self.cluster.folder.load().name)


async def _kill(run: BrokersUnderLoad, broker: int) -> None:
    run.brokers.kill(broker)
    await run.leader(other_than=broker)
    await run.acknowledged(WARM_WRITES)
    await asyncio.to_thread(run.brokers.start, broker)


async def kill(run: BrokersUnderLoad) -> None:
    """kill -9 of the broker that leads the log."""
    await _kill(run, await run.leader())


async def stop(run: BrokersUnderLoad) -> None:
    """The broker that leads the log is stopped with SIGSTOP until another one leads, and then resumes."""
    leader = await run.leader()
    with run.brokers.stopped(leader):
        await run.leader(other_than=leader)
        await run.acknowledged(WARM_WRITES)


async def cut(run: BrokersUnderLoad) -> None:
    """The same, but it is cut off from the other brokers and the controllers, and clients still reach it."""
    leader = await run.leader()
    with run.brokers.cut_off(leader):
        await run.leader(other_than=leader)
        await run.acknowledged(WARM_WRITES)


async def controller(run: BrokersUnderLoad) -> None:
    """kill -9 of the active controller."""
    await _kill(run, await active_controller(run.brokers.bootstrap()))


async def rolling(run: BrokersUnderLoad) -> None:
    """One broker after the other is shut down and started again."""
    for broker in run.brokers.nodes:
        await asyncio.to_thread(run.brokers.stop, broker)
        await run.acknowledged(WARM_WRITES)
        await asyncio.to_thread(run.brokers.start, broker)
        await run.in_sync()


EVENTS: Mapping[BrokerEvent, Callable[[BrokersUnderLoad], Awaitable[None]]] = {
    BrokerEvent.KILL: kill,
    BrokerEvent.STOP: stop,
    BrokerEvent.CUT: cut,
    BrokerEvent.CONTROLLER: controller,
    BrokerEvent.ROLLING: rolling,
}
