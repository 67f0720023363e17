"""One failover of a cluster under load, and the recovery of the cluster afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from replicator.chaos.client_load import ClientLoad
from replicator.chaos.stale_reads import OldNodeConnections
from replicator.chaos.write_ledger import WriteLedger
from replicator.errors import ReplicatorError
from replicator.local.admin_client import ClusterAdmin
from replicator.local.folder import ClusterFolder
from replicator.local.process import ProcessIdentity, wait_until_exited
from replicator.local.summary import summarise
from replicator.local.waiting import wait_caught_up

WARM_WRITES = 300  # acknowledged before the event, and by another leader after it
PAUSE_S = 2.0  # longer than the lease and an election
STALL_S = 0.9
WAIT_S = 60.0
POLL_S = 0.02


class EventKind(StrEnum):
    KILL = "kill"
    PAUSE = "pause"
    STALL = "stall"
    HANDOVER = "handover"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class FailoverRun:
    kind: StrEnum
    pause_s: float
    numbers: range  # of its writes
    failed_twice: int
    stale_reads: int


@dataclass(frozen=True, slots=True)
class ClusterUnderLoad:
    folder: ClusterFolder
    admin: ClusterAdmin
    password: str
    load: ClientLoad
    ledger: WriteLedger

    @property
    def ids(self) -> list[str]:
        """In the order of their priorities."""
        return [it.id for it in sorted(self.folder.load().nodes, key=lambda it: (it.priority, it.id))]

    async def run(self, kind: EventKind) -> FailoverRun:
        """One event under load; returns when all nodes run again and have caught up. Raises `ReplicatorError`."""
        ledger, first = self.ledger, len(self.ledger)
        ledger.begin()
        self.load.resume()
        leader = await self.leader()
        await self.acknowledged(WARM_WRITES, not_by="")
        event_s = time.monotonic()
        stale_reads = await EVENTS[kind](self, leader)
        pause_s = ledger.pause_s(event_s, leader)
        await self.recover()
        return FailoverRun(kind, pause_s, range(first, len(ledger)), ledger.failed_twice, stale_reads)

    async def leader(self) -> str:
        return str((await asyncio.to_thread(summarise, self.admin)).leader)

    async def acknowledged(self, count: int, not_by: str) -> None:
        """Wait until nodes other than `not_by` have acknowledged `count` writes. Raises `ReplicatorError`."""
        deadline_s = time.monotonic() + WAIT_S
        while self.ledger.acknowledged_elsewhere(not_by) < count:
            if time.monotonic() > deadline_s:
                raise ReplicatorError(
                    f"no node has accepted enough writes for {WAIT_S:.0f} s: see the nodes' logs in {self.folder.dir}"
                )
            await asyncio.sleep(POLL_S)

    def store(self, id: str) -> int:
        """Changes if the node replaces its store."""
        return (self.folder.node_dir(id) / "store" / "data.mdb").stat().st_ino

    async def recover(self) -> None:
        """Start stopped nodes, pause the load, and wait until all nodes have caught up. Raises `ReplicatorError`."""
        cluster = self.folder.load()
        for entry in cluster.nodes:
            await asyncio.to_thread(self.folder.start_process, cluster, entry)
        await self._all_serve()
        await self.load.pause()
        nodes = (await asyncio.to_thread(wait_caught_up, self.admin, WAIT_S)).nodes
        if len({it.digest for it in nodes}) != 1:
            raise ReplicatorError(f"the nodes differ: {[(it.id, it.digest) for it in nodes]}")

    async def _all_serve(self) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not (await asyncio.to_thread(summarise, self.admin)).all_serve:
            if time.monotonic() > deadline_s:
                raise ReplicatorError(f"not all nodes serve after {WAIT_S:.0f} s: see their logs in {self.folder.dir}")
            await asyncio.sleep(POLL_S)


async def kill(cluster: ClusterUnderLoad, leader: str) -> int:
    """kill -9 of the leader."""
    await _kill(cluster, leader)
    await cluster.acknowledged(WARM_WRITES, not_by=leader)
    return 0


async def pause(cluster: ClusterUnderLoad, leader: str) -> int:
    """The leader is stopped with SIGSTOP until there is another one, and then resumes as a follower."""
    process, store = cluster.folder.running_process(leader), cluster.store(leader)
    port = cluster.folder.load().node(leader).resp_port
    old = OldNodeConnections(leader, port, cluster.password, cluster.ledger)
    await old.open()
    try:
        async with _stopped(process):
            await asyncio.sleep(PAUSE_S)
            await cluster.acknowledged(WARM_WRITES, not_by=leader)
            old.send()
        await old.receive()
    finally:
        old.close()
    if cluster.folder.running_process(leader) != process or cluster.store(leader) != store:
        raise ReplicatorError(f"{leader} restarted or replaced its store: see {cluster.folder.log_file(leader)}")
    return old.stale


async def stall(cluster: ClusterUnderLoad, leader: str) -> int:
    """kill -9 of the leader while the follower that is next by priority is stopped."""
    successor = next(id for id in cluster.ids if id != leader)
    async with _stopped(cluster.folder.running_process(successor)):
        await asyncio.sleep(STALL_S / 2)
        await _kill(cluster, leader)
        await asyncio.sleep(STALL_S / 2)
    await cluster.acknowledged(WARM_WRITES, not_by=leader)
    return 0


async def handover(cluster: ClusterUnderLoad, leader: str) -> int:
    """The leader transfers leadership to the next node."""
    ids = cluster.ids
    successor = ids[(ids.index(leader) + 1) % len(ids)]
    node = cluster.admin.node(cluster.folder.load().node(leader).http)
    await asyncio.to_thread(node.promote, successor, timeout_s=WAIT_S)
    await cluster.acknowledged(WARM_WRITES, not_by=leader)
    return 0


async def stop(cluster: ClusterUnderLoad, leader: str) -> int:
    """The leader is stopped as `replicator node stop` does it."""
    await asyncio.to_thread(cluster.folder.stop_process, leader)
    await cluster.acknowledged(WARM_WRITES, not_by=leader)
    return 0


EVENTS: Mapping[EventKind, Callable[[ClusterUnderLoad, str], Awaitable[int]]] = {
    EventKind.KILL: kill,
    EventKind.PAUSE: pause,
    EventKind.STALL: stall,
    EventKind.HANDOVER: handover,
    EventKind.STOP: stop,
}
"""Each takes the leader, returns the number of stale reads, and ends when another leader accepts writes."""


async def _kill(cluster: ClusterUnderLoad, id: str) -> None:
    process = cluster.folder.running_process(id)
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(wait_until_exited, process, WAIT_S)


@asynccontextmanager
async def _stopped(process: ProcessIdentity) -> AsyncIterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)
