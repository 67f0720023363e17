"""What a read waits for at a follower, and in every other role that reads the log."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future

from replicator.errors import ReplicatorError
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

QUESTIONS_PER_LEASE = 4  # so that a replica that reads locally keeps its lease when some are late


class FollowerReads:
    def __init__(self, context: NodeContext, health: NodeHealth, source: IndexSource) -> None:
        machine = context.replica.machine
        self._context = context
        self._health = health
        self._waiting = WaitingReads(context)
        self._unsuspended = BlockingView(
            machine.view, lambda: machine.suspended, lambda key: True, self._when_not_suspended
        )
        self.index = ReadIndex(context, source, self._unsuspended)

    def view(self, level: Level | None) -> View | Future[View]:
        """As `reads.Reads.view`."""
        store, index = self._health.store(), self.index
        if level is None:
            # clients of a former leader do not know that it is one: they read as at a leader until it has caught up
            level = LINEARIZABLE if self._context.roles.stepped_down_ms > index.fresh_ms else EVENTUAL
        if level.kind is LevelKind.EVENTUAL:
            return store
        if level.token is not None:
            return self._waiting.session_view(level.token, store)
        if level.kind is LevelKind.BOUNDED:
            if index.is_within(level.max_age_ms, level.max_records):
                return store
            if level.max_records:
                return self._waiting.start(self._reached_but(level.max_records, store))
        elif self.reads_locally:
            return self._unsuspended
        return index.reached()

    @property
    def reads_locally(self) -> bool:
        """Whether this store knows, or suspends the keys of, every write that has ended."""
        context = self._context
        if context.author.node not in local_readers(context.replica.machine.meta.membership):
            return False
        return self.index.age_ms <= context.timing.follower_lease_ms

    async def keep_lease(self) -> None:
        """For as long as the node runs: ask for the index in time, while this replica may read locally."""
        context = self._context
        while True:
            readers = local_readers(context.replica.machine.meta.membership)
            if context.author.node in readers and not context.roles.role.leads:
                try:
                    await asyncio.shield(self.index.reached())
                except ReplicatorError as error:
                    logger.info("no lease for local reads: %s", error)
            await context.clock.sleep(context.timing.follower_lease_ms / QUESTIONS_PER_LEASE)

    async def _reached_but(self, max_records: int, store: View) -> View:
        await self.index.reached_but(max_records)
        return store

    async def _when_not_suspended(self, key: bytes) -> View:
        """Wait until a read that is asked for now may see `key`."""
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
