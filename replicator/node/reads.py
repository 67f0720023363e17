"""Reads: one way to ask for a view that meets a level (`protocol.levels`), whatever the role of this node.

              leader (`leader_reads`)                      follower (`follower_reads`)
eventual      no wait                                      no wait
session       its store reaches the token                  its store reaches the token
bounded       as linearizable                              the index was asked for recently enough, and reached
linearizable  its lease, the writes in flight of the       the index is asked for, and reached; suspended keys.
              keys that are read, and the deletion of      In suspend and invalidate mode, sync replicas need not
              those that have expired                      ask each time (`ack_policy.local_readers`)
(default)     as linearizable                              as eventual
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from replicator.node.client_writes import ClientWrites
from replicator.node.context import NodeContext
from replicator.node.follower_reads import FollowerReads
from replicator.node.health import NodeHealth
from replicator.node.index_source import IndexSource
from replicator.node.leader_reads import LeaderReads
from replicator.node.read_index import read_timed_out
from replicator.protocol.levels import Level
from replicator.store.view import KeyBlocked, SnapshotEnded, View

T = TypeVar("T")


class Reads(Protocol):
    def view(self, level: Level | None) -> View | Future[View]:
        """A view for a read of that level, or a future of one, which many reads may share: do not cancel it.

        The view is valid until other code runs on the event loop. It may raise `KeyBlocked` for single keys.
        Raises `Stale`, `Loading`, `BadRequest` (a snapshotter), and the error of a failed node; so does the future.
        """
        ...


class NodeReads:
    """Delegates each read to the class for the current role."""

    def __init__(self, context: NodeContext, health: NodeHealth, writes: ClientWrites, source: IndexSource) -> None:
        """`writes`: of this node, for deleting expired rows that reads meet."""
        self._context = context
        self.at_follower = FollowerReads(context, health, source)
        self.at_leader = LeaderReads(context, health, self.at_follower, writes)

    def view(self, level: Level | None) -> View | Future[View]:
        """As `Reads.view`."""
        reads: Reads = self.at_leader if self._context.roles.role.leads else self.at_follower
        return reads.view(level)

    async def read_in_slices(self, level: Level | None, answer: Callable[[View], Awaitable[T]]) -> T:
        """As `read`, for an `answer` that takes long and lets other code run: it gets a snapshot.

        Only the waiting for views is limited in time.
        """
        left_ms = float(self._context.timeouts.read_ms)
        next_view: Awaitable[View] = self._asked(level)
        key_blocked = False
        while True:
            began_ms = self._context.clock.elapsed_ms()
            view = await self._in_time(next_view, left_ms, key_blocked)
            left_ms -= self._context.clock.elapsed_ms() - began_ms
            try:
                with view.snapshot() as snapshot:
                    return await answer(snapshot)
            except SnapshotEnded:
                next_view, key_blocked = self._asked(level), False
            except KeyBlocked as blocked:
                next_view, key_blocked = blocked.unblocked(), True

    async def _asked(self, level: Level | None) -> View:
        found = self.view(level)
        return await asyncio.shield(found) if isinstance(found, Future) else found

    async def _in_time(self, view: Awaitable[View], left_ms: float, key_blocked: bool) -> View:
        try:
            async with asyncio.timeout(left_ms / 1000):
                return await view
        except TimeoutError:
            raise read_timed_out(self._context, key_blocked=key_blocked) from None

    async def read(self, level: Level | None, answer: Callable[[View], T]) -> T:
        """The result of `answer` for a view that meets the level. `answer` may be called more than once.

        Raises `Stale` if that takes too long, and what `view` and `answer` raise.
        """
        key_blocked = False
        try:
            async with asyncio.timeout(self._context.timeouts.read_ms / 1000):
                view = await self._asked(level)
                while True:
                    try:
                        return answer(view)
                    except KeyBlocked as blocked:
                        key_blocked = True
                        view = await blocked.unblocked()
        except TimeoutError:
            raise read_timed_out(self._context, key_blocked=key_blocked) from None
