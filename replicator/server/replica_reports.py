"""What the leader knows of its replicas, for another node: REPL.REPLICAS over its Redis port."""

from __future__ import annotations

import asyncio

from replicator.address import Address
from replicator.intervals import REPORTS_TIMEOUT_MS
from replicator.node.node_link import LinkFailed
from replicator.node.replica_progress import ReplicaReport
from replicator.position import NodeId, Offset
from replicator.server.node_connection import NodeConnection


class ReplicaReports:
    def __init__(self, password: str) -> None:
        self._password = password
        self._asking: asyncio.Task[tuple[ReplicaReport, ...]] | None = None  # all callers share its answer

    async def ask(self, leader: Address) -> tuple[ReplicaReport, ...]:
        """Raises `LinkFailed`, after `REPORTS_TIMEOUT_MS` at the latest."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(leader))
            self._asking.add_done_callback(self._done)
        return await asyncio.shield(self._asking)

    def _done(self, task: asyncio.Task[tuple[ReplicaReport, ...]]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # nobody may be waiting any more

    async def _ask(self, leader: Address) -> tuple[ReplicaReport, ...]:
        try:
            async with asyncio.timeout(REPORTS_TIMEOUT_MS / 1000):
                connection = await NodeConnection.open(leader, self._password)
                try:
                    reply = await connection.ask("REPL.REPLICAS")
                finally:
                    connection.close()
        except TimeoutError:
            raise LinkFailed(f"{leader} has not answered for {REPORTS_TIMEOUT_MS} ms") from None
        try:
            return tuple(
                ReplicaReport(NodeId(node.decode()), Offset(offset), ack_age_ms, is_responsive=bool(responsive))
                for node, offset, ack_age_ms, responsive in reply
            )
        except (TypeError, ValueError, AttributeError):
            raise LinkFailed(f"{leader} answered: {reply!r:.200}") from None
