"""Reads: what each level (`protocol.levels`) waits for, at a leader and at a follower.

              leader                                          follower
eventual      nothing                                         nothing
session       its store reaches the token                     its store reaches the token
bounded       as linearizable                                 the log's end was asked for lately enough, and reached
linearizable  its lease; what is in flight and would be read  the log's end is asked for, and reached; keys that are
                                                              suspended. Who is waited for by all writes twice over
                                                              (`confirmation.local_readers`) need not ask each time
(none said)   as linearizable                                 as eventual
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import TypeVar

from replicator.errors import ReplicatorError
from replicator.node.context import NodeContext
from replicator.node.follower import Follower
from replicator.node.leader import Leader
from replicator.node.read_index import ReadIndex, too_late
from replicator.position import Seq
from replicator.protocol.ack_policy import local_readers
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level, LevelKind, check_timeline
from replicator.protocol.suspension import blocks
from replicator.store.view import BlockingView, KeyBlocked, View

logger = logging.getLogger(__name__)

T = TypeVar("T")

LEASE_POLL_MS = 2
FRESHENINGS = 4  # in each follower lease


class Reads:
    def __init__(self, context: NodeContext, role: Callable[[], Leader | Follower], store: Callable[[], View]) -> None:
        """`store` raises why this node serves no reads at all."""
        self.context = context
        self.role = role
        self.store = store
        self.index = ReadIndex(context)
        self._deposed_ms = -inf

    def note_deposed(self) -> None:
        """This node has ceased to lead. Clients do not know yet: what they ask is as if it did, until it is level."""
        self._deposed_ms = self.context.clock.elapsed_ms()

    def now(self, level: Level | None) -> View | None:
        """A view for a read of that level; None if something has to be waited for first (`read`).

        The view may raise `KeyBlocked` for single keys. Raises `Stale`, and what `store` raises.
        """
        store, role, context = self.store(), self.role(), self.context
        level = self.resolved(level)
        if level.kind is LevelKind.EVENTUAL:
            return store
        if level.token is not None:
            check_timeline(level.token, context.replica.state.timeline.hex())
            return store if context.replica.state.offset >= level.token.offset else None
        if isinstance(role, Leader):
            return self.leading_view(role) if role.lease_left_ms() > 0 else None
        if level.kind is LevelKind.BOUNDED:
            return store if self.index.is_within(level.max_age_ms, level.max_records) else None
        return self.following_view(context.replica.state.seq) if self.reads_locally else None

    def soon(self, level: Level | None) -> asyncio.Future[None] | None:
        """For a read that only has to reach the log's end: when `reached_view` meets its level. It raises `Stale`."""
        if isinstance(self.role(), Leader):
            return None
        level = self.resolved(level)
        asks = level.kind is LevelKind.LINEARIZABLE or (level.kind is LevelKind.BOUNDED and not level.max_records)
        return self.index.reached() if asks else None

    def reached_view(self) -> View | None:
        """To be called when the future of `soon` has ended; None if this node leads meanwhile."""
        if isinstance(self.role(), Leader):
            return None
        return self.following_view(self.context.replica.state.seq)

    def resolved(self, level: Level | None) -> Level:
        """What a read of that level needs in this node's role."""
        if isinstance(self.role(), Leader):
            return LINEARIZABLE if level is None or level.kind is LevelKind.BOUNDED else level
        return level or (LINEARIZABLE if self._deposed_ms > self.index.fresh_ms else EVENTUAL)

    @property
    def reads_locally(self) -> bool:
        """Whether no write can have ended that this store does not know of, or hold back."""
        context = self.context
        if context.author.node not in local_readers(context.replica.machine.meta.membership):
            return False
        return self.index.age_ms <= context.timing.follower_lease_ms

    def leading_view(self, leader: Leader) -> View:
        overlay = self.context.inflight.overlay
        base = self.inherited_view(leader)
        return BlockingView(base, overlay) if overlay else base

    def inherited_view(self, leader: Leader) -> View:
        """What earlier leaders wrote may be missing at replicas that answer reads."""
        suspended = self.context.replica.machine.suspended
        store = self.store()
        if not suspended:
            return store
        return BlockingView(store, suspended, lambda key: leader.inherited_write(suspended[key]))

    def following_view(self, since: Seq) -> View:
        suspended = self.context.replica.machine.suspended
        store = self.store()
        return BlockingView(store, suspended, lambda key: blocks(suspended[key], since)) if suspended else store

    async def read(self, level: Level | None, answer: Callable[[View], T]) -> T:
        """What `answer` makes of a view that meets the level; it may be called more than once.

        Raises `Stale` if that takes too long, and what `store` and `answer` raise.
        """
        reading = Reading(self, level)
        try:
            async with asyncio.timeout(self.context.timing.read_ms / 1000):
                while True:
                    view = await reading.view()
                    try:
                        return answer(view)
                    except KeyBlocked as held:
                        await reading.released(held.key)
        except TimeoutError:
            raise too_late(self.context) from None

    async def keep_fresh(self) -> None:
        """For as long as the node runs, while it may read locally."""
        context = self.context
        while True:
            readers = local_readers(context.replica.machine.meta.membership)
            if context.author.node in readers and isinstance(self.role(), Follower):
                try:
                    await self.index.reach()
                except ReplicatorError as error:
                    logger.info("no lease for reads: %s", error)
            await context.clock.sleep(context.timing.follower_lease_ms / FRESHENINGS)


class Reading:
    """One read that has to wait."""

    def __init__(self, reads: Reads, level: Level | None) -> None:
        self._reads = reads
        self._context = reads.context
        self._level = reads.resolved(level) if level is None else level  # whatever becomes of the role meanwhile
        self._since = reads.context.replica.state.seq
        self._settled = False  # what was in flight when the read began has landed
        self._reached = False  # the log was asked for its end since the read began

    async def view(self) -> View:
        """A view that meets the level. It may raise `KeyBlocked`: then wait for `released`, and ask again."""
        reads = self._reads
        while True:
            role, level = reads.role(), reads.resolved(self._level)
            now = reads.now(level)
            if level.kind is not LevelKind.LINEARIZABLE and (now is not None or self._reached):
                return now or reads.store()
            if level.token is not None:
                await self._context.replica.applied(level.token.offset)
            elif isinstance(role, Leader):
                if now is not None:
                    return reads.inherited_view(role) if self._settled else now
                await self._lease(role)
            elif self._reached or (level.kind is LevelKind.LINEARIZABLE and reads.reads_locally):
                return reads.following_view(self._since)
            else:
                await self._reach(level)

    async def released(self, key: bytes) -> None:
        """Wait for what stands in the way of reading `key`."""
        replica, role = self._context.replica, self._reads.role()
        if isinstance(role, Leader) and not self._settled:
            await self._context.inflight.settled()
            self._settled = True
            return
        while (it := replica.machine.suspended.get(key)) is not None:
            if not (role.inherited_write(it) if isinstance(role, Leader) else blocks(it, self._since)):
                return
            await replica.changed()

    async def _lease(self, leader: Leader) -> None:
        while self._reads.role() is leader and leader.lease_left_ms() <= 0:
            await self._context.clock.sleep(LEASE_POLL_MS)

    async def _reach(self, level: Level) -> None:
        await self._reads.index.reach(level.max_records)
        self._reached = True
