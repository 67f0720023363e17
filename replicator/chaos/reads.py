"""Clients that stay with a node which was the leader: is anything stale that it answers?"""

from __future__ import annotations

import asyncio
import time

from replicator.chaos.client import Connection
from replicator.chaos.ledger import Ledger
from replicator.chaos.load import end_of

CONNECTIONS = 8
READ_S = 0.5  # for so long they go on reading
ANSWER_S = 10.0  # more than a node takes to end a write


class OldConnections:
    """Each asks for the write that was acknowledged last, wherever that was: it has to be there.

    While the node stands still, requests gather in its sockets, a write among them: they came to a leader, and are
    what it finds first. Once it says that it follows, its reads may be a moment behind, as those of any follower.
    """

    def __init__(self, node: str, port: int, password: str, ledger: Ledger) -> None:
        self.stale = 0  # reads
        self._node = node
        self._connections = [Connection(port, password) for _ in range(CONNECTIONS)]
        self._ledger = ledger
        self._written: list[int] = []  # one by each connection

    async def open(self) -> None:
        for connection in self._connections:
            await connection.ask(ANSWER_S, "PING")

    def send(self) -> None:
        """Two reads with a write between them, on each connection."""
        for connection in self._connections:
            number = self._ledger.open()
            self._written.append(number)
            self._send_read(connection)
            connection.send("SET", self._ledger.key(number), number)
            self._send_read(connection)

    async def receive(self) -> None:
        """The answers to these; then go on reading for a while."""
        async with asyncio.timeout(ANSWER_S):
            await asyncio.gather(*map(self._receive, self._connections, self._written))

    async def _receive(self, connection: Connection, number: int) -> None:
        await self._receive_read(connection, may_lag=False)
        self._ledger.note(number, end_of(await connection.receive()), self._node)
        await self._receive_read(connection, may_lag=False)
        until_s = time.monotonic() + READ_S
        while time.monotonic() < until_s:
            self._send_read(connection)
            await self._receive_read(connection, may_lag=True)

    def _send_read(self, connection: Connection) -> None:
        assert self._ledger.latest is not None
        connection.send("GET", self._ledger.key(self._ledger.latest))
        connection.send("ROLE")  # answered together with the read: nothing can happen between them

    async def _receive_read(self, connection: Connection, *, may_lag: bool) -> None:
        """`may_lag`: if the node says that it follows."""
        value, role = await connection.receive(), await connection.receive()
        leads = role[0] == b"master"
        self.stale += value is None and (leads or not may_lag)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
