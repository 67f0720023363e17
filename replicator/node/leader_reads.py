"""Reads at the leader: what each level waits for.

An expired row is gone once its deletion is applied: followers still show it until then. So a read of one waits for the
deletion. If the row cannot be deleted now, it counts as not expired, unless a part of it has been deleted.
"""

from __future__ import annotations

import asyncio
from asyncio import Future

from replicator.errors import Definite, ReplicatorError
from replicator.intervals import LEASE_POLL_MS
from replicator.node.client_writes import ClientWrites
from replicator.node.context import NodeContext
from replicator.node.expiry import remove_if_expired
from replicator.node.follower_reads import FollowerReads
from replicator.node.health import NodeHealth
from replicator.node.waiting_reads import WaitingReads
from replicator.node.writes import Writes
from replicator.position import Offset
from replicator.protocol.levels import Level, LevelKind
from replicator.protocol.suspension import is_inherited
from replicator.store.values import LONG_AGO_MS, expiry_of
from replicator.store.view import BlockingView, ExpiringView, View

NO_KEYS: frozenset[bytes] = frozenset()


class LeaderReads:
    def __init__(
        self, context: NodeContext, health: NodeHealth, at_follower: FollowerReads, writes: ClientWrites
    ) -> None:
        """`at_follower`: continues a read if this node loses leadership meanwhile."""
        machine, overlay = context.replica.machine, context.writes.overlay
        self._context = context
        self._health = health
        self._at_follower = at_follower
        self._client_writes = writes
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
        roles = self._context.roles
        roles.lease_used = True
        if roles.lease_left_ms() <= 0:
            return self._waiting.start(self._with_lease(self._current))
        if self._context.writes.overlay or self._context.replica.machine.suspended:
            return self._without_expired(self._current)
        return self._without_expired(store)

    def _is_inherited(self, key: bytes) -> bool:
        return is_inherited(self._context.replica.machine.suspended[key], self._context.roles.term_start_seq)

    async def _when_acknowledged(self, key: bytes) -> View:
        """Wait until the writes that are in flight now have ended, and no replica can show another value of `key`."""
        replica = self._context.replica
        await _settled(self._context.writes)
        while key in replica.machine.suspended and self._is_inherited(key):
            await replica.changed()
        return await self._with_lease(self._acknowledged)

    def _without_expired(self, view: View, shown: frozenset[bytes] = NO_KEYS) -> View:
        """`view`, but a read of a row that has expired by now waits for its deletion. `shown`: except these keys."""
        next_ms = self._context.replica.machine.next_expiry_ms()
        if next_ms is None:
            return view
        now_ms = self._context.clock.wall_us() // 1000
        if next_ms > now_ms:
            return view
        return ExpiringView(view, now_ms, shown, lambda key: self._when_deleted(key, now_ms, shown))

    async def _when_deleted(self, key: bytes, now_ms: int, shown: frozenset[bytes]) -> View:
        """Delete the row, unless a write in flight does, and wait until what is in flight now has ended."""
        try:
            self._delete_part(key, now_ms)
            await _settled(self._context.writes)
            while self._is_partly_deleted(key):
                self._delete_part(key, now_ms)
                await _settled(self._context.writes)
        except Definite:
            if self._is_partly_deleted(key):
                raise
            await _settled(self._context.writes)
        return await self._with_lease(self._acknowledged, shown | {key})

    def _delete_part(self, key: bytes, now_ms: int) -> None:
        """Or the whole row, if it is small. Raises `Definite`."""
        transaction = self._client_writes.begin()
        if remove_if_expired(transaction, key, now_ms):
            self._client_writes.submit(transaction, _ignore)

    def _is_partly_deleted(self, key: bytes) -> bool:
        return expiry_of(self._context.writes.overlay.get(key)) == LONG_AGO_MS

    async def _with_lease(self, view: View, shown: frozenset[bytes] = NO_KEYS) -> View:
        """`view` without expired rows, once this node holds its lease; a follower's view if it loses leadership."""
        roles = self._context.roles
        while roles.role.leads and roles.lease_left_ms() <= 0:
            roles.lease_needed.set()
            await self._context.clock.sleep(LEASE_POLL_MS)
        if not roles.role.leads:
            return await asyncio.shield(self._at_follower.index.reached())
        self._health.store()  # raises if this node has failed meanwhile
        return self._without_expired(view, shown)


async def _settled(writes: Writes) -> None:
    """Wait until each write that is queued or sent now has been applied or has failed."""
    while (last := writes.last) is not None:
        await asyncio.wait([last.applied_or_failed()])
        if last.seq:  # it was sent, so all writes before it were, too
            return


def _ignore(error: ReplicatorError | None, offset: Offset) -> None:
    """The read looks at the row again, whatever the outcome."""
