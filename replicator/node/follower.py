"""The follower: reads and applies the log until this node is leader, in every role that does not append."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from replicator.log.port import Entry
from replicator.node import resolution
from replicator.node.background import run_with_background
from replicator.node.context import NodeContext
from replicator.node.election import Election
from replicator.position import Offset
from replicator.protocol.ack_policy import required
from replicator.protocol.roles import Role
from replicator.records.types import Claim, Membership

logger = logging.getLogger(__name__)


class Follower:
    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._election = Election(context)

    async def run(self) -> None:
        """Until this node is leader. Raises what reading and applying the log raise."""
        self._context.roles.last_record_ms = self._context.clock.elapsed_ms()
        await run_with_background(self._read_log(), self._seek_leadership())

    async def _read_log(self) -> None:
        context = self._context
        context.reader.seek(Offset(context.replica.state.offset + 1))
        resolution.check(context)
        while not context.roles.role.leads:
            self._take(await context.reader.next())
            resolution.check(context)

    async def _seek_leadership(self) -> None:
        context = self._context
        claims = resolution.Resolution(context)
        while True:
            match context.roles.role:
                case Role.RESOLVING:
                    await claims.step()
                case Role.FOLLOWER | Role.CANDIDATE | Role.STEPPING_DOWN:
                    await self._election.step()
                case _:  # checking takes no claim; leading ends this
                    await context.clock.sleep(context.timing.heartbeat_ms)

    def _take(self, entries: Sequence[Entry]) -> None:
        context = self._context
        roles, writes = context.roles, context.writes
        membership = context.replica.machine.meta.membership
        accepted = context.replica.read(entries)
        if accepted:
            roles.last_record_ms = context.clock.elapsed_ms()
            self._election.restart_timer()
        for offset, (header, body, _) in accepted:
            if type(body) is Claim:
                logger.info("epoch %d: %s is the leader (%s)", body.epoch, body.leader, body.reason)
                roles.claim_accepted(header, body, context.replica.state.seq)
            else:
                roles.record_read(header.author)
            if type(body) is Membership:
                roles.membership_changed(membership, body)
                membership = body
            if header.author == context.author:
                if required(membership, context.author.node).needed:
                    writes.await_acks(header.epoch, header.seq, offset)
                else:
                    writes.apply(header.epoch, header.seq, offset)
