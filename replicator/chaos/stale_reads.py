"""Clients that keep reading at a node that was the leader, and count its stale replies."""

from __future__ import annotations

import asyncio
import time

from replicator.chaos.client_load import outcome_of
from replicator.chaos.redis_connection import RedisConnection
from replicator.chaos.write_ledger import WriteLedger

CONNECTIONS = 8
READ_S = 0.5  # how long they read after the first replies
REPLY_TIMEOUT_S = 10.0  # longer than a node waits before it answers a write


class OldNodeConnections:
    """Each connection reads the last acknowledged write, which any node may have acknowledged: it must be present.

    While the process is stopped, requests queue in its sockets, among them a write: the node was the leader when they
    were sent, and handles them first. Once it reports that it is a follower, its reads may lag, as on any follower.
    """

    def __init__(self, node: str, port: int, password: str, ledger: WriteLedger) -> None:
        self.stale = 0  # number of stale reads
        self._node = node
        self._connections = [RedisConnection(port, password) for _ in range(CONNECTIONS)]
        self._ledger = ledger
        self._written: list[int] = []  # one per connection

    async def open(self) -> None:
        for connection in self._connections:
            await connection.ask(REPLY_TIMEOUT_S, "PING")

    def send(self) -> None:
        """On each connection, two reads with a write between them."""
        for connection in self._connections:
            number = self._ledger.open()
            self._written.append(number)
            self._send_read(connection)
            connection.send("SET", self._ledger.key(number), number)
            self._send_read(connection)

    async def receive(self) -> None:
        """Receive the replies to these, then read for half a second."""
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            await asyncio.gather(*map(self._receive, self._connections, self._written))

    async def _receive(self, connection: RedisConnection, number: int) -> None:
        await self._receive_read(connection, may_lag=False)
        self._ledger.record(number, outcome_of(await connection.receive()), self._node)
        await self._receive_read(connection, may_lag=False)
        until_s = time.monotonic() + READ_S
        while time.monotonic() < until_s:
            self._send_read(connection)
            await self._receive_read(connection, may_lag=True)

    def _send_read(self, connection: RedisConnection) -> None:
        assert self._ledger.latest is not None
        connection.send("GET", self._ledger.key(self._ledger.latest))
        connection.send("ROLE")  # handled together with the read: the role cannot change between them

    async def _receive_read(self, connection: RedisConnection, *, may_lag: bool) -> None:
        """`may_lag`: if the node reports that it is a follower."""
        value, role = await connection.receive(), await connection.receive()
        leads = role[0] == b"master"
        self.stale += value is None and (leads or not may_lag)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
