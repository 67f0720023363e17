"""The follower: in every role that does not append, reads and applies the log until this node is leader."""

from __future__ import annotations

import logging

from replicator.node import resolution
from replicator.node.ack_sender import AckSender
from replicator.node.background import run_with_background
from replicator.node.context import NodeContext
from replicator.node.election import Election
from replicator.node.followed_log import Batch, FollowedLog
from replicator.node.health import NodeHealth
from replicator.node.timing import follow
from replicator.protocol.ack_policy import required
from replicator.protocol.roles import Role
from replicator.records.types import Claim, Header, Membership, Timing

logger = logging.getLogger(__name__)


class Follower:
    def __init__(self, context: NodeContext, health: NodeHealth, log: FollowedLog, sender: AckSender) -> None:
        self._context = context
        self._health = health
        self._election = Election(context)
        self._log = log
        self._sender = sender

    async def run(self) -> None:
        """Run until this node is leader. Raises what `Reader.next` and `Replica.read` do, and `Replaced`."""
        self._context.roles.last_record_ms = self._context.clock.elapsed_ms()
        try:
            await run_with_background(
                self._read_log(), self._seek_leadership(), self._log.keep_linked(), self._sender.run()
            )
        finally:
            self._log.close()

    async def _read_log(self) -> None:
        context = self._context
        resolution.check(context)
        while not context.roles.role.leads:
            batch = await self._log.next()
            self._take(batch)
            self._sender.ack_over(batch.stream, at_once=batch.ack_requested)
            resolution.check(context)

    async def _seek_leadership(self) -> None:
        context = self._context
        claims = resolution.Resolution(context)
        await self._log.compared.wait()
        while True:
            match context.roles.role:
                case Role.RESOLVING:
                    await claims.step()
                case Role.FOLLOWER | Role.CANDIDATE | Role.STEPPING_DOWN:
                    await self._election.step()
                case _:  # checking needs no claim; once this node is leader, `run` ends
                    await context.clock.sleep(context.timing.heartbeat_ms)

    def _take(self, batch: Batch) -> None:
        context = self._context
        roles, writes = context.roles, context.writes
        membership = context.replica.machine.meta.membership
        if batch.stream is None:
            accepted = context.replica.read(batch.entries)
        else:
            accepted, why_not = context.replica.read_sent(batch.entries)
            if why_not:
                self._log.leave_stream(why_not)
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
                self._check_registration(header, body)
                roles.membership_changed(membership, body)
                membership = body
            elif type(body) is Timing:
                follow(context, body)
            if header.author == context.author:
                if required(membership, context.author).needed:
                    writes.await_acks(header.epoch, header.seq, offset)
                else:
                    writes.apply(header.epoch, header.seq, offset)

    def _check_registration(self, header: Header, membership: Membership) -> None:
        """Raises `Replaced`. From then on no read is answered, also if the caller has not handled the error yet."""
        error = self._context.registration.replaced_by(header, membership)
        if error is not None:
            self._health.replaced(error)
            raise error
