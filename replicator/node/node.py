"""One node: runs as follower or as leader, according to its role, until it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from replicator.errors import BadRequest, BrokerUnavailable, Busy, Loading, Replaced, ReplicatorError, StoreFull
from replicator.intervals import AUDIT_MS, AUDIT_PAUSE_MS, NODE_RETRY_MS, REVIEW_MS, STATUS_END_MS
from replicator.log.port import Acks, LogExtent
from replicator.node.background import run_with_background
from replicator.node.backlog import RecordSink, ReplicationBacklog, StreamRequest
from replicator.node.client_writes import ClientWrites, leading_member
from replicator.node.commands import Execute
from replicator.node.committed_batch import CommittedBatch
from replicator.node.context import NodeContext
from replicator.node.damage import DamageSignal, HealHistory
from replicator.node.expiry import delete_expired
from replicator.node.follower import Follower
from replicator.node.health import NodeHealth, NodeState
from replicator.node.index_source import IndexSource
from replicator.node.latencies import StageLatencies
from replicator.node.leader import Leader
from replicator.node.leader_index import LeaderIndex
from replicator.node.membership import MembershipChanges
from replicator.node.node_link import NodeLink
from replicator.node.outage_log import OutageLog
from replicator.node.reads import NodeReads
from replicator.node.record_source import RecordSource
from replicator.node.relay import Relay
from replicator.node.replica import ChangeListener, RowListener
from replicator.node.replica_progress import LastAck, ReplicaLag, ReplicaProgress, ReplicaReport
from replicator.node.status import NodeStatus, node_status
from replicator.node.store_comparison import StoreComparison
from replicator.node.timing import TimingChanges, log_ignored
from replicator.node.transfer import LeadershipTransfer
from replicator.position import Author, NodeId, Offset, Token
from replicator.protocol.verification import is_truncated, truncated
from replicator.records.types import Member, Membership, Timing
from replicator.store.view import Transaction, View

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Node:
    """Its parts, and the interface for the servers (`server.backend.Backend`)."""

    def __init__(
        self,
        context: NodeContext,
        acks: Acks,
        member: Member,
        link: NodeLink,
        execute: Execute,
        *,
        healed: HealHistory | None = None,
    ) -> None:
        """`member`: how this node registers itself. `link`: to the node that is leader. `execute`: commands in the log.

        `healed`: how the process has rebuilt its store; None: it never does, and a damaged node has failed.
        """
        self._context = context
        context.replica.execute = execute
        self._acks = acks
        self._link = link
        self._source: RecordSource | None = None  # None: this node has not followed yet
        self._relay: Relay | None = None  # as `_source`
        self._ack_outage = OutageLog(logger, "sending acks to Kafka")  # outlives the follower, which is made anew then
        self._backlog = ReplicationBacklog(context.author, context.tail, context.backlog_bytes)
        self._progress = ReplicaProgress(context.author, acks, context.clock, self._backlog.request_acks)
        self._client_writes = ClientWrites(context)
        self._healed = healed
        self._health = NodeHealth(context.author.node, context.replica, heals=healed is not None)
        self._damage = DamageSignal()
        leader_index = LeaderIndex(context, self._health)
        source = IndexSource(context, leader_index, link)
        self.reads = NodeReads(context, self._health, self._client_writes, source)
        self.membership_changes = MembershipChanges(context, member)
        self.timing_changes = TimingChanges(context)
        self.transfer = LeadershipTransfer(context, self._backlog, self._progress, self._health)
        self.are_changing = self._client_writes.are_changing
        self.submit = self._client_writes.submit
        self.end_stream = self._backlog.end_stream
        self.wait_acked = self._progress.wait
        self.committed_offset = leader_index.committed_offset
        self.recent = context.replica.recent
        self.damaged = self._health.damaged
        self.give_up = self._health.give_up
        self.comparison = StoreComparison(context)

    # Lifecycle

    async def run(self) -> None:
        """Run until cancelled. A node that has failed or was replaced stays up to report it."""
        log_ignored(self._context)
        try:
            await run_with_background(
                self._follow_and_lead(),
                self._answer_overdue_writes(),
                self._catch_up(),
                self._health.resume_when_applied(),
                self.reads.at_follower.keep_lease(),
                *([self._audit()] if self._healed is not None else ()),
            )
        finally:
            self._health.stop()
            self._context.roles.stop("the node stops")

    async def before_stop(self) -> None:
        """Transfer leadership if this node is leader. It is no candidate any more, and nobody's first choice."""
        self._context.roles.eligible = False
        if self._source is not None:
            self._source.stop_streaming()
        await self.transfer.before_stop()

    async def _follow_and_lead(self) -> None:
        roles, logged = self._context.roles, None
        while True:
            try:
                if roles.role.leads:
                    logged = None
                    await self._until_damaged(self._lead())
                else:
                    if roles.role is not logged:
                        logger.info("%s is %s", self._context.author, roles.role)
                        logged = roles.role
                    source = self._source = RecordSource(self._context, self._link, self._backlog)
                    relay = self._relay = Relay(
                        self._context.author,
                        self._backlog,
                        self._context.replica,
                        source,
                        self._acks,
                        self._context.clock,
                    )
                    follower = Follower(self._context, self._health, self._acks, source, relay, self._ack_outage)
                    await self._until_damaged(follower.run())
            except (BrokerUnavailable, StoreFull) as error:
                self._health.blocked(error)
                await self._context.clock.sleep(NODE_RETRY_MS)
            except Replaced as error:
                roles.stop(str(error))
                await asyncio.Event().wait()
            except ReplicatorError as error:
                self._fail(error)
                await asyncio.Event().wait()

    async def _until_damaged(self, role: Coroutine[Any, Any, None]) -> None:
        """Run as follower or leader. Raises what that does, and what an audit of the store does."""
        if self._healed is None:
            await role
        else:
            await run_with_background(role, self._damage.raise_when_found())

    async def _audit(self) -> None:
        """Audit the store again and again, until it is found to be damaged."""
        machine, clock = self._context.replica.machine, self._context.clock
        try:
            while True:
                began_ms = clock.elapsed_ms()
                while not machine.audit():
                    await clock.sleep(AUDIT_PAUSE_MS)
                await clock.sleep(max(AUDIT_PAUSE_MS, AUDIT_MS - (clock.elapsed_ms() - began_ms)))
        except ReplicatorError as error:
            self._fail(error)
            self._damage.found(error)
        await asyncio.Event().wait()

    async def _lead(self) -> None:
        context = self._context
        self._health.caught_up()
        self._ack_outage.ended()
        self.timing_changes.append_first()
        self.membership_changes.register_leader()
        logger.info("%s is the leader of epoch %d", context.author, context.replica.state.epoch)
        leader = Leader(context, self._backlog, self._progress, self.membership_changes, self.timing_changes)
        await run_with_background(
            leader.run(), delete_expired(self._client_writes, context.replica.machine, context.clock)
        )

    async def _catch_up(self) -> None:
        """Serve once all records are applied that were in the log when this node started, and the store is compared."""
        context, health = self._context, self._health
        while True:
            try:
                end = await context.log.end()
                if not is_truncated(context.replica.state, end):
                    break
                health.blocked(truncated(context.replica.state, end))  # if it stays so, the reader fails
            except BrokerUnavailable as error:
                health.blocked(error)
            except ReplicatorError as error:
                self._fail(error)
                return
            await context.clock.sleep(NODE_RETRY_MS)
        health.note_end(end)
        health.resumed()
        await context.replica.applied(health.end_offset)
        await context.replica.compared.wait()
        health.caught_up()

    async def _answer_overdue_writes(self) -> None:
        context = self._context
        while True:
            await context.clock.sleep(REVIEW_MS)
            context.writes.expire(context.clock.elapsed_ms())

    def _fail(self, error: ReplicatorError) -> None:
        self._health.fail(error)
        self._context.roles.stop(str(error))

    # For the servers, besides `submit`, `wait_acked`, and the parts above

    @property
    def state(self) -> NodeState:
        return self._health.state

    def status(self) -> NodeStatus:
        return node_status(self._context, self._health, self._source, self._healed)

    async def current_status(self) -> NodeStatus:
        """The status, after asking the log for its end, which must not delay it: the state reports what is wrong."""
        end = await _answer_in_time(self._context.log.end())
        if end is not None:
            self._health.note_end(end)
        return self.status()

    async def log_extent(self) -> LogExtent | None:
        """What Kafka reports about the log; None if it does not answer within `STATUS_END_MS`."""
        return await _answer_in_time(self._context.log.extent())

    def begin(self) -> Transaction:
        """As `ClientWrites.begin`. A leader that has failed says so, as it will not take writes again."""
        try:
            return self._client_writes.begin()
        except Busy:
            self._health.check()
            raise

    def start_stream(self, request: StreamRequest, sink: RecordSink) -> Sequence[CommittedBatch]:
        """As `ReplicationBacklog.start_stream`. Raises `BadRequest` also if that process sends records to this one."""
        if self._source is not None and self._source.upstream == request.author:
            raise BadRequest(f"{self._context.author} receives its records from {request.author}")
        return self._backlog.start_stream(request, sink, self.membership)

    def set_downstream(self, sink: RecordSink, downstream: Mapping[Author, int]) -> None:
        """As `ReplicationBacklog.set_downstream`."""
        self._backlog.set_downstream(sink, downstream, self.membership)

    def record_acks(self, sink: RecordSink, payloads: Sequence[bytes]) -> None:
        """Acks have arrived over this stream."""
        senders = self._backlog.receivers_over(sink)
        if self._context.roles.role.leads:
            for payload in payloads:
                self._progress.record(payload, senders)
        elif senders and self._relay is not None:
            self._relay.pass_on(payloads, senders)

    def store(self) -> View:
        """The current state of the store. Raises as `NodeHealth.store`."""
        return self._health.store()

    def count_expiring(self) -> int:
        """The number of values in the store that have an expiry, of all tables."""
        return self._context.replica.machine.count_expiring()

    @property
    def serves_clients(self) -> bool:
        return self._health.serves_clients

    def token(self, written: Offset) -> Token:
        """Covers everything that a client can have read here and has written up to that offset. Raises as `store`."""
        self._health.store()
        state = self._context.replica.state
        if not state.timeline:
            raise Loading("the log is empty: there has been no leader yet. Try again")
        return Token(state.timeline.hex(), max(written, state.offset))

    @property
    def last_acks(self) -> dict[NodeId, LastAck]:
        return self._progress.latest if self.leads else {}

    @property
    def replicas(self) -> tuple[ReplicaReport, ...]:
        """At the leader, also while it resolves an append: all other members; empty on followers."""
        context, state = self._context, self._context.replica.state
        if state.leader != context.author:
            return ()
        return self._progress.reports(state, context.roles.last_commit_ms, context.timing.sync_ms)

    @property
    def replica_lags(self) -> dict[NodeId, ReplicaLag]:
        """Of the same nodes as `replicas`."""
        state = self._context.replica.state
        return self._progress.lags(state) if state.leader == self._context.author else {}

    @property
    def latencies(self) -> StageLatencies:
        return self._context.latencies

    @property
    def row_listener(self) -> RowListener | None:
        return self._context.replica.row_listener

    @row_listener.setter
    def row_listener(self, listener: RowListener | None) -> None:
        self._context.replica.row_listener = listener

    @property
    def logs_commands(self) -> bool:
        return self._client_writes.logs_commands

    @property
    def change_listener(self) -> ChangeListener | None:
        return self._context.replica.change_listener

    @change_listener.setter
    def change_listener(self, listener: ChangeListener | None) -> None:
        self._context.replica.change_listener = listener

    def now_ms(self) -> int:
        """The wall clock of this node."""
        return self._context.clock.wall_us() // 1000

    @property
    def leads(self) -> bool:
        return self._context.roles.role.leads

    @property
    def lease_left_ms(self) -> float:
        """How long reads here are certainly current; 0: they may not be."""
        return self._context.roles.lease_left_ms()

    @property
    def holds_leadership(self) -> bool:
        """As `RoleState.holds_leadership`."""
        return self._context.roles.holds_leadership()

    @property
    def membership(self) -> Membership:
        return self._context.replica.machine.meta.membership

    @property
    def timing(self) -> Timing:
        """The timing that this node follows now."""
        return self._context.timing

    @property
    def logged_timing(self) -> Timing | None:
        """The timing of the cluster; None: the log has no record of it yet."""
        return self._context.replica.machine.timing.current

    @property
    def leading_member(self) -> Member | None:
        """The leader, if its address is known."""
        return leading_member(self._context)

    @property
    def is_registered(self) -> bool:
        """Whether this process, and no other, counts as this node."""
        return self.membership.includes(self._context.author)

    def ask_to_register(self) -> int:
        """This process is about to ask the leader to register it. Returns the incarnation that it replaces."""
        return self._context.registration.ask(self.membership)

    def note_registration(self, refusal: str) -> None:
        """The leader has answered a request to register this process. `refusal`: empty if it has accepted it."""
        self._context.registration.refusal = refusal

    def make_eligible(self) -> None:
        """Allow this node to start elections, once it is known that no other process uses its id."""
        self._context.roles.eligible = True


async def _answer_in_time(request: Coroutine[Any, Any, T]) -> T | None:
    """The answer of the log; None after `STATUS_END_MS`, or after an error: a status must not be delayed by it."""
    with contextlib.suppress(ReplicatorError, TimeoutError):
        async with asyncio.timeout(STATUS_END_MS / 1000):
            return await request
    return None
