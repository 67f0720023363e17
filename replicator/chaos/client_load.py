"""The load of a chaos run: clients that write to the leader all the time, and retry a failed write once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import hiredis

from replicator.chaos.redis_connection import NotConnected, RedisConnection
from replicator.chaos.write_ledger import WriteLedger, WriteOutcome

CLIENTS = 8
PACE_S = 0.003  # between two writes of a client
FAILED_PACE_S = 0.01
REPLY_TIMEOUT_S = 0.3
LOOKUP_S = 0.02  # for ROLE: a stopped node must not delay the replies of the others


def outcome_of(reply: Any) -> WriteOutcome:
    if not isinstance(reply, hiredis.ReplyError):
        return WriteOutcome.ACKNOWLEDGED
    return WriteOutcome.UNKNOWN if str(reply).startswith("UNKNOWN") else WriteOutcome.REJECTED


class ClientLoad:
    """Runs in the background between `start` and `stop`, except between `pause` and `resume`."""

    def __init__(self, ports: Mapping[str, int], password: str, leader: str | None, ledger: WriteLedger) -> None:
        self.ledger = ledger
        self._running = asyncio.Event()
        self._clients = [_WritingClient(ports, password, leader, ledger) for _ in range(CLIENTS)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._running.set()
        self._tasks = [asyncio.create_task(client.run(self._running)) for client in self._clients]

    async def pause(self) -> None:
        """Returns when no write is in flight."""
        self._running.clear()
        await asyncio.gather(*(client.idle.wait() for client in self._clients))

    def resume(self) -> None:
        self._running.set()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            client.close()


class _WritingClient:
    def __init__(self, ports: Mapping[str, int], password: str, leader: str | None, ledger: WriteLedger) -> None:
        self.idle = asyncio.Event()
        self._connections = {id: RedisConnection(port, password) for id, port in ports.items()}
        self._nodes = {port: id for id, port in ports.items()}
        self._leader: str | None = leader  # as far as this client knows
        self._ledger = ledger

    async def run(self, running: asyncio.Event) -> None:
        while True:
            self.idle.set()
            await running.wait()
            self.idle.clear()
            await asyncio.sleep(PACE_S if await self._write() else FAILED_PACE_S)

    async def _write(self) -> bool:
        ledger = self._ledger
        number = ledger.open()
        outcome = await self._try(number)
        if outcome is not WriteOutcome.ACKNOWLEDGED:
            outcome = outcome.then(await self._try(number))
        ledger.record(number, outcome, self._leader or "")
        ledger.failed_twice += outcome is not WriteOutcome.ACKNOWLEDGED
        return outcome is WriteOutcome.ACKNOWLEDGED

    async def _try(self, number: int) -> WriteOutcome:
        """Looks the leader up again if the write fails."""
        self._leader = self._leader or await self._find_leader()
        node = self._leader
        if node is None:
            return WriteOutcome.REJECTED
        try:
            reply = await self._connections[node].ask(REPLY_TIMEOUT_S, "SET", self._ledger.key(number), number)
        except NotConnected:
            outcome = WriteOutcome.REJECTED
        except (OSError, TimeoutError):
            outcome = WriteOutcome.UNKNOWN
        else:
            outcome = outcome_of(reply)
            if str(reply).startswith("READONLY"):  # this node knows the leader, the others may not know it yet
                self._leader = await self._leader_known_to(node) or await self._find_leader()
                return outcome
        if outcome is not WriteOutcome.ACKNOWLEDGED:
            self._leader = await self._find_leader()
        return outcome

    async def _find_leader(self) -> str | None:
        """The first node that reports to be the leader."""
        lookups = [asyncio.create_task(self._leads(id)) for id in self._connections]
        try:
            for lookup in asyncio.as_completed(lookups, timeout=LOOKUP_S):
                if (id := await lookup) is not None:
                    return id
        except TimeoutError:
            return None
        finally:
            for task in lookups:
                task.cancel()
            await asyncio.gather(*lookups, return_exceptions=True)
        return None

    async def _leads(self, id: str) -> str | None:
        """The node itself, if it is the leader."""
        return id if await self._leader_known_to(id) == id else None

    async def _leader_known_to(self, id: str) -> str | None:
        try:
            role = await self._connections[id].ask(LOOKUP_S, "ROLE")
        except (NotConnected, OSError, TimeoutError):
            return None
        if not isinstance(role, list):
            return None
        return id if role[0] == b"master" else self._nodes.get(role[2])

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
