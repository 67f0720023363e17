"""The follower: in every role that does not append, reads and applies the log until this node is leader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from replicator.limits import SLICE_MS, SLICE_STEPS
from replicator.log.port import Acks, Entry
from replicator.node import resolution
from replicator.node.ack_sender import AckSender
from replicator.node.background import run_with_background
from replicator.node.context import NodeContext
from replicator.node.election import Election
from replicator.node.health import NodeHealth
from replicator.node.node_link import StreamSignal
from replicator.node.outage_log import OutageLog
from replicator.node.record_source import FromKafka, FromStream, RecordSource
from replicator.node.relay import Relay
from replicator.node.replica import Accepted, Applied
from replicator.node.timing import follow
from replicator.position import LEADER, Seq
from replicator.protocol.ack_policy import required
from replicator.protocol.roles import Role
from replicator.protocol.timeline import check_not_ended
from replicator.records.types import Claim, Header, Membership, Timing
from replicator.steps import Steps

logger = logging.getLogger(__name__)


class Follower:
    def __init__(
        self,
        context: NodeContext,
        health: NodeHealth,
        acks: Acks,
        source: RecordSource,
        relay: Relay,
        ack_outage: OutageLog,
    ) -> None:
        self._context = context
        self._health = health
        self._election = Election(context)
        self._source = source
        self._relay = relay
        self._acks = AckSender(context.author, context.replica, acks, context.clock, source, ack_outage)

    async def run(self) -> None:
        """Run until this node is leader. Raises what `Reader.next` and `Replica.read` do, `LogEnded` and `Replaced`."""
        self._context.roles.last_contact_ms = self._context.clock.elapsed_ms()
        try:
            await run_with_background(
                self._read_log(),
                self._seek_leadership(),
                self._source.keep_streaming(),
                self._source.end_if_awaited(),
                *([] if self._context.upstream.wanted == LEADER else [self._source.end_if_behind()]),
                self._acks.run(),
                self._relay.run(),
            )
        finally:
            self._source.close()

    async def _read_log(self) -> None:
        context = self._context
        resolution.check(context)
        check_not_ended(context.replica.state)
        while not context.roles.role.leads:
            match await self._source.next():
                case FromKafka(entries):
                    await self._apply(entries, context.replica.read)
                case FromStream(entries, signal):
                    problem = await self._apply(entries, context.replica.apply_sent)
                    self._acks.after_read(ack_requested=signal is not None)
                    if signal is not None:
                        self._relay.received(signal)
                    if signal is StreamSignal.HEARTBEAT:
                        self._note_contact()
                    if problem is not None:
                        self._source.end_stream(problem)
            check_not_ended(context.replica.state)
            resolution.check(context)

    async def _apply(self, entries: Sequence[Entry], apply: Callable[[Sequence[Entry]], Steps[Applied]]) -> str | None:
        """Apply all entries in slices. Returns why some could not be applied; None: all were."""
        while True:
            membership = self._context.replica.machine.meta.membership
            accepted, entries, problem = await self._in_slices(apply(entries))
            self._take(accepted, membership)
            self._relay.applied(accepted)
            if problem is not None or not entries:
                return problem
            await asyncio.sleep(0)

    async def _in_slices(self, steps: Steps[Applied]) -> Applied:
        clock = self._context.clock
        try:
            while True:
                until_s = clock.peek_s() + SLICE_MS / 1000
                for _ in range(SLICE_STEPS):
                    next(steps)
                    if clock.peek_s() >= until_s:
                        break
                await asyncio.sleep(0)
        except StopIteration as end:
            applied: Applied = end.value
            return applied
        finally:
            steps.close()

    async def _seek_leadership(self) -> None:
        context = self._context
        claims = resolution.Resolution(context)
        await self._source.compared.wait()
        while True:
            match context.roles.role:
                case Role.RESOLVING:
                    await claims.step()
                case Role.FOLLOWER | Role.CANDIDATE | Role.STEPPING_DOWN:
                    await self._election.step()
                case _:  # checking needs no claim; once this node is leader, `run` ends
                    await context.clock.sleep(context.timing.heartbeat_ms)

    def _take(self, accepted: Sequence[Accepted], membership: Membership) -> None:
        """The records have been applied; `membership` is that before them."""
        context = self._context
        roles, writes = context.roles, context.writes
        if accepted:
            self._note_contact()
        for (offset, _), record, _ in accepted:
            header, body, _ = record
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
                end = writes.await_acks if required(membership, context.author).needed else writes.apply
                for seq in range(header.seq, record.last_seq + 1):
                    end(header.epoch, Seq(seq), offset)

    def _note_contact(self) -> None:
        """A record or a heartbeat of the leader was received."""
        self._context.roles.last_contact_ms = self._context.clock.elapsed_ms()
        self._election.restart_timer()

    def _check_registration(self, header: Header, membership: Membership) -> None:
        """Raises `Replaced`. From then on no read is answered, also if the caller has not handled the error yet."""
        error = self._context.registration.replaced_by(header, membership)
        if error is not None:
            self._health.replaced(error)
            raise error
