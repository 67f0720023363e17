"""Clients that read at every node all the time, linearizably: each acknowledged write must be there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import hiredis

from replicator.chaos.redis_connection import NotConnected, RedisConnection
from replicator.chaos.write_ledger import WriteLedger

PACE_S = 0.01
TIMEOUT_S = 5.0


class LinearReaders:
    """Runs between `start` and `stop`."""

    def __init__(self, ports: Mapping[str, int], password: str, ledger: WriteLedger) -> None:
        self.stale = 0
        self.answered = 0
        self._ledger = ledger
        self._connections = [RedisConnection(port, password) for port in ports.values()]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._read(connection)) for connection in self._connections]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            connection.close()

    async def _read(self, connection: RedisConnection) -> None:
        while True:
            await asyncio.sleep(PACE_S)
            number = self._ledger.latest
            if number is None:
                continue
            try:
                value = await connection.ask(TIMEOUT_S, "REPL.READ", "linearizable", "GET", self._ledger.key(number))
            except (NotConnected, OSError, TimeoutError):
                continue
            if not isinstance(value, hiredis.ReplyError):
                self.answered += 1
                self.stale += value != b"%d" % number
