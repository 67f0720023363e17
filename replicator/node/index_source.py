"""Where the read index comes from: from the leader or, if it cannot be reached, from a barrier.

leader    answers with its committed offset while it holds its lease (`leader_index`)
barrier   an entry that every reader skips, appended with acks=all: only the present leader of the partition can
          acknowledge it, and all that was in the log before is below its offset

A barrier makes the next append of the leader end at another offset than expected: it is the exception.

The lease of a local reader rests on such an answer. After a forced claim the new leader waits until the lease of the
former one has ended, so a lease that rests on the former one's answer must not outlive it. A barrier needs no such
bound: a claim that is not read with it comes after it.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import NamedTuple

from replicator.errors import NotLeader, Stale
from replicator.intervals import BARRIER_PAUSE_MS
from replicator.log.port import AppendOutcomeUnknown, AppendRefused
from replicator.node.client_writes import leading_member
from replicator.node.context import NodeContext
from replicator.node.leader_index import LeaderIndex
from replicator.node.node_link import CommittedOffset, LinkFailed, NodeLink
from replicator.position import Author, Epoch, Offset
from replicator.protocol.verification import check_appended
from replicator.records.codec import BARRIER

logger = logging.getLogger(__name__)

LINK_SHARE = 8
"""A leader that has not answered within this part of `read_ms` is taken for unreachable."""


class IndexAnswer(NamedTuple):
    asked_ms: float  # when the question was sent
    offset: Offset  # all that was confirmed or shown before that is at or below it
    lease_ms: float = inf  # from `asked_ms` on: a lease of this node that rests on the answer must not last longer
    term: tuple[Epoch, Author] | None = None  # of the leader that answered; its claim is at or below the offset


class IndexSource:
    def __init__(self, context: NodeContext, own: LeaderIndex, link: NodeLink) -> None:
        """`own`: the answer of this node, if it is the leader and resolves an append."""
        self._context = context
        self._own = own
        self._link = link
        self._barrier_ms = -inf  # when the last one was sent
        self._link_error = ""  # of the last question; empty: it was answered

    async def ask(self) -> IndexAnswer:
        """One call at a time. Raises `Stale`, `LogDamage`."""
        replica = self._context.replica
        while True:
            state = replica.state
            try:
                answer = await self._ask_leader()
            except (LinkFailed, NotLeader) as error:
                self._note_link(str(error))
                if state.leader == replica.state.leader:
                    return await self._append_barrier()
            else:
                self._note_link("")
                return answer

    async def _ask_leader(self) -> IndexAnswer:
        """Raises `LinkFailed`, `NotLeader`, `Stale`."""
        context = self._context
        state, member = context.replica.state, leading_member(context)
        asked_ms = context.clock.elapsed_ms()
        if state.leader == context.author:
            return _answer(asked_ms, await self._own.committed_offset(state.timeline, state.epoch))
        if member is None or member.node == context.author.node:  # this node, before it was restarted
            raise LinkFailed("there is no leader, or its address is not known")
        timeout_ms = context.timeouts.read_ms / LINK_SHARE
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return _answer(asked_ms, await self._link.committed_offset(member, state.timeline, state.epoch))
        except TimeoutError:
            raise LinkFailed(f"{member.node} has not answered at {member.resp} for {timeout_ms:.0f} ms") from None

    async def _append_barrier(self) -> IndexAnswer:
        """Raises `Stale`, `LogDamage`."""
        context = self._context
        wait_ms = self._barrier_ms + BARRIER_PAUSE_MS - context.clock.elapsed_ms()
        if wait_ms > 0:
            await context.clock.sleep(wait_ms)
        self._barrier_ms = asked_ms = context.clock.elapsed_ms()
        state = context.replica.state
        try:
            offset = await context.log.append([BARRIER])
        except (AppendRefused, AppendOutcomeUnknown) as error:
            raise Stale(
                f"this replica cannot find out how current it is. The leader: {self._link_error}. The log: {error}. "
                "Try again, ask another node, or use a weaker level"
            ) from error
        check_appended(state, offset)
        return IndexAnswer(asked_ms, offset)

    def _note_link(self, error: str) -> None:
        if error and not self._link_error:
            logger.warning("reads append barriers to the log while the leader cannot be asked: %s", error)
        elif self._link_error and not error:
            logger.info("reads ask the leader again")
        self._link_error = error


def _answer(asked_ms: float, it: CommittedOffset) -> IndexAnswer:
    return IndexAnswer(asked_ms, it.offset, it.lease_left_ms, (it.epoch, it.leader))
