"""Reads at the leader: what each level waits for."""

from __future__ import annotations

import asyncio
from asyncio import Future

from replicator.intervals import LEASE_POLL_MS
from replicator.node.context import NodeContext
from replicator.node.follower_reads import FollowerReads
from replicator.node.health import NodeHealth
from replicator.node.waiting_reads import WaitingReads
from replicator.protocol.levels import Level, LevelKind
from replicator.store.view import BlockingView, View


class LeaderReads:
    def __init__(self, context: NodeContext, health: NodeHealth, at_follower: FollowerReads) -> None:
        """`at_follower`: continues a read if this node loses leadership meanwhile."""
        machine, overlay = context.replica.machine, context.writes.overlay
        self._context = context
        self._health = health
        self._at_follower = at_follower
        self._waiting = WaitingReads(context)
        self._acknowledged = BlockingView(
            machine.view, lambda: machine.suspended, self._is_inherited, self._when_acknowledged
        )
        """For reads that have waited for the writes in flight."""
        self._current = BlockingView(self._acknowledged, lambda: overlay, lambda key: True, self._when_acknowledged)

    def view(self, level: Level | None) -> View | Future[View]:
        """As `reads.Reads.view`."""
        store = self._health.store()
        if level is not None and level.kind is LevelKind.EVENTUAL:
            return store
        if level is not None and level.token is not None:
            return self._waiting.session_view(level.token, store)
        if self._context.roles.lease_left_ms() <= 0:
            return self._waiting.start(self._with_lease(self._current))
        if self._context.writes.overlay or self._context.replica.machine.suspended:
            return self._current
        return store

    def _is_inherited(self, key: bytes) -> bool:
        """Whether an earlier leader wrote the key, and replicas may not have read it yet."""
        written = self._context.replica.machine.suspended[key].written
        return 0 < written <= self._context.roles.term_start_seq

    async def _when_acknowledged(self, key: bytes) -> View:
        """Wait until the writes that are in flight now have ended, and no replica can show another value of `key`."""
        replica = self._context.replica
        await self._context.writes.settled()
        while key in replica.machine.suspended and self._is_inherited(key):
            await replica.changed()
        return await self._with_lease(self._acknowledged)

    async def _with_lease(self, view: View) -> View:
        """`view`, once this node holds its lease; a follower's view if it loses leadership."""
        roles = self._context.roles
        while roles.role.leads and roles.lease_left_ms() <= 0:
            await self._context.clock.sleep(LEASE_POLL_MS)
        if not roles.role.leads:
            return await asyncio.shield(self._at_follower.index.reached())
        self._health.store()  # raises if this node has failed meanwhile
        return view
