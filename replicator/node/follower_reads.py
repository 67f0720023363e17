"""Reads at a follower, and in every other role that reads the log: what each level waits for."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future

from replicator.errors import ReplicatorError
from replicator.intervals import TIMING_POLL_MS
from replicator.node.context import NodeContext
from replicator.node.health import NodeHealth
from replicator.node.index_source import IndexSource
from replicator.node.read_index import ReadIndex
from replicator.node.waiting_reads import WaitingReads
from replicator.protocol.ack_policy import local_readers
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level, LevelKind
from replicator.protocol.suspension import blocks
from replicator.store.view import BlockingView, View

logger = logging.getLogger(__name__)

REQUESTS_PER_LEASE = 4  # so that a replica that reads locally keeps its lease when some are late


class FollowerReads:
    def __init__(self, context: NodeContext, health: NodeHealth, source: IndexSource) -> None:
        machine = context.replica.machine
        self._context = context
        self._health = health
        self._waiting = WaitingReads(context)
        self._unsuspended = BlockingView(
            machine.view, lambda: machine.suspended, lambda key: True, self._when_not_suspended
        )
        self.index = ReadIndex(context, source, self._unsuspended_view)

    def view(self, level: Level | None) -> View | Future[View]:
        """As `reads.Reads.view`."""
        store, index = self._health.store(), self.index
        if level is None:
            # clients may not know that this node lost leadership: reads stay linearizable until it has caught up
            level = LINEARIZABLE if self._context.roles.stepped_down_ms > index.fresh_ms else EVENTUAL
        if level.kind is LevelKind.EVENTUAL:
            return store
        if level.token is not None:
            return self._waiting.session_view(level.token, store)
        if level.kind is LevelKind.BOUNDED:
            if index.is_within(level.max_age_ms, level.max_records):
                return store
            return self._waiting.start(self._reached_except(level.max_records, store))
        if self.reads_locally:
            return self._unsuspended
        return index.reached()

    def _unsuspended_view(self) -> View:
        self._health.store()  # raises if this node has failed meanwhile
        return self._unsuspended

    @property
    def reads_locally(self) -> bool:
        """Whether this replica may answer linearizable reads now without asking the log for its end."""
        context = self._context
        if context.author not in local_readers(context.replica.machine.meta.membership):
            return False
        return context.clock.elapsed_ms() < self.index.lease_until_ms

    async def keep_lease(self) -> None:
        """Run until cancelled: while this replica reads locally, ask for the index often enough for its lease."""
        context = self._context
        while True:
            readers = local_readers(context.replica.machine.meta.membership)
            lease_ms = context.timing.follower_lease_ms  # 0 until the log has a record of the timing
            if lease_ms and context.author in readers and not context.roles.role.leads:
                try:
                    await asyncio.shield(self.index.reached())
                except ReplicatorError as error:
                    logger.info("no lease for local reads: %s", error)
            wait_ms = (lease_ms or context.timing.heartbeat_ms) / REQUESTS_PER_LEASE
            await context.clock.sleep(min(wait_ms, TIMING_POLL_MS))

    async def _reached_except(self, max_records: int, store: View) -> View:
        """A bounded read does not wait for suspended keys."""
        if max_records:
            await self.index.reached_except(max_records)
        else:
            await asyncio.shield(self.index.reached())
        return store

    async def _when_not_suspended(self, key: bytes) -> View:
        """Wait until a read that starts now may see `key`. Returns the view to read from."""
        replica = self._context.replica
        machine, since = replica.machine, replica.state.seq
        while (it := machine.suspended.get(key)) is not None and blocks(it, since):
            await replica.changed()
        return BlockingView(
            machine.view,
            lambda: machine.suspended,
            lambda key: blocks(machine.suspended[key], since),
            self._when_not_suspended,
        )
