"""What a chaos run does to a cluster under load, and how the cluster is made whole again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from replicator.chaos.ledger import Ledger
from replicator.chaos.load import Load
from replicator.chaos.reads import OldConnections
from replicator.cli.status import summarise
from replicator.errors import ReplicatorError
from replicator.local.admin_client import ClusterClient
from replicator.local.folder import ClusterFolder
from replicator.local.process import ProcessMark, wait_gone

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


@dataclass(frozen=True, slots=True)
class Run:
    kind: EventKind
    pause_s: float
    numbers: range  # of its writes
    failed_twice: int
    stale_reads: int


@dataclass(frozen=True, slots=True)
class Arena:
    """A cluster of this machine, and the load on it."""

    folder: ClusterFolder
    client: ClusterClient
    password: str
    load: Load
    ledger: Ledger

    @property
    def ids(self) -> list[str]:
        """In the order in which they may lead."""
        return [it.id for it in sorted(self.folder.load().nodes, key=lambda it: (it.priority, it.id))]

    async def play(self, kind: EventKind) -> Run:
        """One event under load; afterwards all nodes run again, and are level. Raises `ReplicatorError`."""
        ledger, first = self.ledger, len(self.ledger)
        ledger.begin()
        self.load.go_on()
        leader = await self.leader()
        await self.acknowledged(WARM_WRITES, but="")
        event_s = time.monotonic()
        stale_reads = await EVENTS[kind](self, leader)
        pause_s = ledger.pause_s(event_s, leader)
        await self._heal()
        return Run(kind, pause_s, range(first, len(ledger)), ledger.failed_twice, stale_reads)

    async def leader(self) -> str:
        return str((await self._summary())["leader"])

    async def _summary(self) -> dict[str, Any]:
        return await asyncio.to_thread(summarise, self.client)

    async def acknowledged(self, count: int, but: str) -> None:
        """Wait until nodes other than `but` have acknowledged so many writes of this run. Raises `ReplicatorError`."""
        deadline_s = time.monotonic() + WAIT_S
        while self.ledger.elsewhere(but) < count:
            if time.monotonic() > deadline_s:
                raise ReplicatorError(
                    f"no writes are taken for {WAIT_S:.0f} s: see the nodes' logs in {self.folder.dir}"
                )
            await asyncio.sleep(POLL_S)

    def process(self, id: str) -> ProcessMark:
        """Raises `ReplicatorError` if it does not run."""
        mark = self.folder.process(id)
        if mark is None:
            raise ReplicatorError(f"{id} ended: {self.folder.last_words(id)}")
        return mark

    def store(self, id: str) -> int:
        """Tells a node's store from one that was made anew."""
        return (self.folder.node_dir(id) / "store" / "data.mdb").stat().st_ino

    async def _heal(self) -> None:
        """Start what does not run, let the load rest, and wait until all hold the same."""
        cluster = self.folder.load()
        for entry in cluster.nodes:
            await asyncio.to_thread(self.folder.start_node, cluster, entry)
        await self._until(lambda nodes: all(it["state"] == "serving" for it in nodes), "serve")
        await self.load.hold()
        nodes = await self._until(lambda nodes: len({it["applied_offset"] for it in nodes}) == 1, "have caught up")
        if len({it["digest"] for it in nodes}) != 1:
            raise ReplicatorError(f"the nodes differ: {[(it['id'], it['digest']) for it in nodes]}")

    async def _until(self, condition: Callable[[list[Any]], bool], what: str) -> list[Any]:
        """The nodes, once all of them are so. Raises `ReplicatorError`."""
        deadline_s = time.monotonic() + WAIT_S
        nodes: list[Any]
        while not condition(nodes := (await self._summary())["nodes"]):
            if time.monotonic() > deadline_s:
                raise ReplicatorError(f"not all nodes {what} after {WAIT_S:.0f} s: see their logs in {self.folder.dir}")
            await asyncio.sleep(POLL_S)
        return nodes


async def kill(arena: Arena, leader: str) -> int:
    """kill -9 for the leader."""
    await _kill(arena, leader)
    await arena.acknowledged(WARM_WRITES, but=leader)
    return 0


async def pause(arena: Arena, leader: str) -> int:
    """The leader stands still until another leads, and then goes on, as a follower."""
    process, store = arena.process(leader), arena.store(leader)
    old = OldConnections(leader, arena.folder.load().node(leader).resp_port, arena.password, arena.ledger)
    await old.open()
    try:
        async with _stopped(process):
            await asyncio.sleep(PAUSE_S)
            await arena.acknowledged(WARM_WRITES, but=leader)
            old.send()
        await old.receive()
    finally:
        old.close()
    if arena.process(leader) != process or arena.store(leader) != store:
        raise ReplicatorError(f"{leader} began anew: see {arena.folder.log_file(leader)}")
    return old.stale


async def stall(arena: Arena, leader: str) -> int:
    """kill -9 for the leader while the follower that is to lead next stands still."""
    heir = next(id for id in arena.ids if id != leader)
    async with _stopped(arena.process(heir)):
        await asyncio.sleep(STALL_S / 2)
        await _kill(arena, leader)
        await asyncio.sleep(STALL_S / 2)
    await arena.acknowledged(WARM_WRITES, but=leader)
    return 0


async def handover(arena: Arena, leader: str) -> int:
    """The leader gives the lead to the next node."""
    ids = arena.ids
    heir = ids[(ids.index(leader) + 1) % len(ids)]
    entry = arena.folder.load().node(leader)
    node = arena.client.node(entry.http)
    await asyncio.to_thread(node.ask, "POST", "/promote", {"node": heir}, timeout_s=WAIT_S)
    await arena.acknowledged(WARM_WRITES, but=leader)
    return 0


EVENTS: Mapping[EventKind, Callable[[Arena, str], Awaitable[int]]] = {
    EventKind.KILL: kill,
    EventKind.PAUSE: pause,
    EventKind.STALL: stall,
    EventKind.HANDOVER: handover,
}
"""Each ends when others than the leader take writes, and tells how many stale reads there were."""


async def _kill(arena: Arena, id: str) -> None:
    process = arena.process(id)
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(wait_gone, process, WAIT_S)


@asynccontextmanager
async def _stopped(process: ProcessMark) -> AsyncIterator[None]:
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)
