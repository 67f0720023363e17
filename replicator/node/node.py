"""One node: its role now, and what clients may ask of it in that role."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from replicator.errors import (
    BadRequest,
    BrokerUnavailable,
    Busy,
    Loading,
    NotLeader,
    ReplicatorError,
    StoreFull,
)
from replicator.limits import MAX_INFLIGHT_BYTES, MAX_RECORD_BYTES
from replicator.log.port import Acks
from replicator.node.ack_sender import AckSender
from replicator.node.context import Follow, NodeContext, run_with_background
from replicator.node.expiry import delete_expired
from replicator.node.follower import Follower
from replicator.node.leader import Leader
from replicator.node.membership import Operations
from replicator.node.reads import Reads
from replicator.node.replica import RowListener
from replicator.node.replica_progress import LastAck, ReplicaProgress
from replicator.node.term_history import Term
from replicator.node.writes import Done, PendingWrite
from replicator.position import BEFORE_LOG, NodeId, Offset, Token
from replicator.protocol.levels import Level
from replicator.protocol.membership import with_member
from replicator.protocol.roles import Role
from replicator.records.types import Heartbeat, Member, Membership, Mode, Reason, Write
from replicator.store.view import Transaction, View

T = TypeVar("T")

logger = logging.getLogger(__name__)

RETRY_MS = 500
SWEEP_MS = 100
ACK_PAUSE_MS = 20
READ_ONLY = "You can't write against a read only replica."  # as Redis says it: clients look for it


class State(StrEnum):
    CATCHING_UP = "catching up"  # has not yet read what the log held when this node started
    SERVING = "serving"
    WAITING = "waiting"  # for Kafka or for space on the disk; goes on by itself
    FAILED = "failed"  # for good; the error says what to do
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    id: NodeId
    role: str
    state: State
    trouble: str  # empty if there is none
    epoch: int
    leader: NodeId | None
    leader_silent_ms: float  # since this node read its last record; 0 where it leads itself
    timeline: str
    topic_id: str
    seq: int
    applied_offset: int
    end_offset: int  # of the last record in the log that this node knows of
    digest: str
    entries: int
    lag_ms: float  # age of the last record applied, if it is not the last one there is
    lease_left_ms: float
    void_records: int
    inflight: int
    phase: Role  # more exactly than `role`
    refusal: str  # why no writes are taken at this leader now; empty if they are
    elected: Term | None  # how this term began, if this process has read it
    term_ms: float | None  # how long ago that was
    claims: dict[Reason, int]  # that counted, as far as this process has read


class Node:
    """Runs a `Follower` or a `Leader`, one after the other, and answers the servers (`serve.backend.Backend`)."""

    def __init__(self, context: NodeContext, acks: Acks, member: Member) -> None:
        """`member`: what this node is to be registered as."""
        self._context = context
        self._member = member
        self._role: Follower | Leader = Follower(context, Follow("started"))
        self._caught_up = False
        self._stopped = False
        self._trouble = ""
        self._trouble_at = BEFORE_LOG
        self._failure: ReplicatorError | None = None
        self._end = context.replica.state.offset
        self._membership_seen = Membership()
        self._serves_clients = True  # as that membership says
        self._book = ReplicaProgress(context.author.node, acks, context.clock, context.timing.sync_ms)
        self._reads = Reads(context, lambda: self._role, self.view)
        self.operations = Operations(context, self._book, lambda: self._role, self._leader, self.view)
        self._sender = AckSender(context.author, context.replica, acks, context.clock, ACK_PAUSE_MS)

    # What runs

    async def run(self) -> None:
        """Until it is cancelled. A failure that needs an operator leaves the node up, to say what it is."""
        try:
            await run_with_background(self._roles(), self._sweep(), self._catch_up(), self._reads.keep_fresh())
        finally:
            self._stopped = True
            self._context.inflight.abandon("the node stops")

    async def _roles(self) -> None:
        follow = Follow("started")
        while True:
            try:
                follow = await self._turn(follow)
            except (BrokerUnavailable, StoreFull) as error:
                follow = replace(follow, why=str(error))
                await self._wait_for(error)
            except ReplicatorError as error:
                self._fail(error)
                await asyncio.Event().wait()

    async def _turn(self, follow: Follow) -> Follow:
        """Once a follower, once a leader."""
        context = self._context
        self._role = follower = Follower(context, follow)
        logger.info("%s follows: %s", context.author, follow.why)
        lead = await run_with_background(follower.run(), self._sender.run())
        self._role = leader = Leader(context, self._book)
        logger.info("%s leads epoch %d: %s", context.author, context.replica.state.epoch, lead.why)
        return await self._lead(leader)

    async def _lead(self, leader: Leader) -> Follow:
        machine = self._context.replica.machine
        self._caught_up = True
        self._register(leader)
        try:
            return await run_with_background(
                leader.run(),
                self._book.listen(),
                delete_expired(self, machine, self._context.clock),
            )
        except StoreFull as error:
            return leader.interrupted(str(error))
        finally:
            self._reads.note_deposed()

    def _register(self, leader: Leader) -> None:
        """A leader that the log does not know, or knows under another address, says so first."""
        known = leader.membership.get(self._member.node)
        own = replace(self._member, mode=known.mode) if known else self._member
        if known != own:
            leader.propose(with_member(leader.membership, own))

    async def _catch_up(self) -> None:
        """Serve once all is applied that the log held when this node started."""
        context = self._context
        while True:
            try:
                self._end = Offset(await context.log.end() - 1)
                break
            except BrokerUnavailable as error:
                self._trouble = str(error)
                await context.clock.sleep(RETRY_MS)
            except ReplicatorError as error:
                self._fail(error)
                return
        self._trouble = ""
        await context.replica.applied(self._end)
        self._caught_up = True

    async def _sweep(self) -> None:
        context = self._context
        while True:
            await context.clock.sleep(SWEEP_MS)
            context.inflight.expire(context.clock.elapsed_ms())
            if isinstance(self._role, Leader):
                self._role.review()

    async def _wait_for(self, error: ReplicatorError) -> None:
        logger.warning("%s", error)
        self._trouble, self._trouble_at = str(error), self._context.replica.state.offset
        await self._context.clock.sleep(RETRY_MS)

    def _fail(self, error: ReplicatorError) -> None:
        logger.critical("this node stops applying and serving: %s", error)
        self._failure, self._trouble = error, str(error)
        self._context.inflight.abandon(str(error))

    # What the servers ask

    @property
    def state(self) -> State:
        if self._failure is not None:
            return State.FAILED
        if self._stopped:
            return State.STOPPED
        if self._trouble and self._context.replica.state.offset <= self._trouble_at:
            return State.WAITING
        return State.SERVING if self._caught_up else State.CATCHING_UP

    def status(self) -> NodeStatus:
        context, role, state = self._context, self._role, self.state
        meta = context.replica.machine.meta
        log_state, elections = meta.state, context.replica.elections
        return NodeStatus(
            id=context.author.node,
            role="leader" if isinstance(role, Leader) else "follower",
            state=state,
            trouble=self._trouble if state is not State.SERVING else "",
            epoch=log_state.epoch,
            leader=log_state.leader.node if log_state.leader else None,
            leader_silent_ms=self.leader_silent_ms,
            timeline=log_state.timeline.hex(),
            topic_id=meta.topic_id,
            seq=log_state.seq,
            applied_offset=log_state.offset,
            end_offset=max(self._end, log_state.offset),
            digest=f"{meta.digest:032x}",
            entries=meta.entries,
            lag_ms=context.replica.age_ms(context.clock.wall_us()) if log_state.offset < self._end else 0.0,
            lease_left_ms=self.lease_left_ms,
            void_records=context.replica.void_records,
            inflight=len(context.inflight),
            phase=context.standing.role,
            refusal=str(role.refusal or "") if isinstance(role, Leader) else "",
            elected=elections.last,
            term_ms=elections.last.age_ms(context.clock.wall_us()) if elections.last else None,
            claims=dict(elections.counts),
        )

    async def look(self) -> NodeStatus:
        """The status, after asking the log for its end."""
        with contextlib.suppress(ReplicatorError):  # the node's state tells of it
            self._end = Offset(await self._context.log.end() - 1)
        return self.status()

    def view(self) -> View:
        """The store as it is. Raises what made this node fail, and `Loading`."""
        if self._failure is not None:
            raise self._failure
        if not self._caught_up:
            state = self._context.replica.state
            raise Loading(f"the node reads the log: at offset {state.offset} of {self._end}. {self._trouble}".strip())
        if not self.serves_clients:
            node = self._context.author.node
            raise BadRequest(f"{node} makes snapshots and serves no clients: ask another node")
        return self._context.replica.machine.view

    @property
    def serves_clients(self) -> bool:
        """Whether it is no snapshotter."""
        if self.membership is not self._membership_seen:
            self._membership_seen = self.membership
            own = self.membership.get(self._context.author.node)
            self._serves_clients = own is None or own.mode is not Mode.SNAPSHOTTER
        return self._serves_clients

    def read_now(self, level: Level | None) -> View | None:
        """A view for a read of that level (None: as is usual in this node's role), if nothing has to be waited for.

        It may raise `KeyBlocked` for single keys; then, and in place of None, `read`. Raises `Stale`, and as `view`.
        """
        return self._reads.now(level)

    def read_soon(self, level: Level | None) -> asyncio.Future[None] | None:
        """For a read that only waits for the log's end, as many at once do: when `read_reached` may be called.

        It raises `Stale`. None: such a read has to wait for other things, too (`read`).
        """
        return self._reads.soon(level)

    def read_reached(self) -> View | None:
        """The view for reads that waited so; None if that is not enough after all. Raises as `view`."""
        return self._reads.reached_view()

    async def read(self, level: Level | None, answer: Callable[[View], T]) -> T:
        """What `answer` makes of a view that meets the level; it may be called again. Raises `Stale`, and as `view`."""
        return await self._reads.read(level, answer)

    def token(self, written: Offset) -> Token:
        """All that a client can have seen here, and what it has written up to that offset. Raises as `view`."""
        self.view()
        state = self._context.replica.state
        if not state.timeline:
            raise Loading("the log is empty: nobody has led yet. Ask again")
        return Token(state.timeline.hex(), max(written, state.offset))

    async def wait_acked(self, offset: Offset, replicas: int, timeout_ms: float) -> int:
        return await self._book.wait(offset, replicas, timeout_ms)

    @property
    def heard(self) -> dict[NodeId, LastAck]:
        return self._book.latest if self.leads else {}

    @property
    def row_listener(self) -> RowListener | None:
        return self._context.replica.row_listener

    @row_listener.setter
    def row_listener(self, listener: RowListener | None) -> None:
        self._context.replica.row_listener = listener

    def now_ms(self) -> int | None:
        return self._context.clock.wall_us() // 1000 if isinstance(self._role, Leader) else None

    def begin(self) -> Transaction:
        """Raises `NotLeader`, `NoReplicas`, `Busy`."""
        leader = self._writer()
        if leader is not None and leader.refusal is not None:
            raise leader.refusal
        inflight = self._context.inflight
        if inflight.bytes > MAX_INFLIGHT_BYTES:
            raise Busy(f"{inflight.bytes >> 20} MiB of writes are in flight. Try again")
        return Transaction(inflight.overlay)

    def submit(self, transaction: Transaction, done: Done) -> None:
        """Raises `NotLeader`, `BadRequest` (too large)."""
        leader = self._writer()
        context = self._context
        inflight = context.inflight
        changes = transaction.changes
        if not changes and not inflight and self.lease_left_ms > 0:
            done(None, context.replica.state.offset)
            return
        # without changes a heartbeat takes the place of the write: once it counts, what was read does, too
        body = Write(tuple(changes.values())) if changes else Heartbeat()
        encoded = context.replica.codec.encode_body(body)
        if len(encoded) > MAX_RECORD_BYTES:
            raise BadRequest(
                f"one transaction would take {len(encoded)} bytes in the log, at most {MAX_RECORD_BYTES}: "
                "split it into smaller ones"
            )
        deadline_ms = context.clock.elapsed_ms() + context.timing.answer_ms
        pending = PendingWrite(body, encoded, changes, done, deadline_ms)
        inflight.add(pending)
        if context.replica.row_listener is not None:
            context.replica.tell(changes.values())
        if leader is not None:
            leader.wake()

    @property
    def leads(self) -> bool:
        return isinstance(self._role, Leader)

    @property
    def lease_left_ms(self) -> float:
        """How long reads here are sure to see all that was written anywhere; 0: they are not."""
        role = self._role
        return role.lease_left_ms() if isinstance(role, Leader) else 0.0

    @property
    def leader_silent_ms(self) -> float:
        role = self._role
        return self._context.clock.elapsed_ms() - role.last_record_ms if isinstance(role, Follower) else 0.0

    @property
    def membership(self) -> Membership:
        return self._context.replica.machine.meta.membership

    @property
    def leading_member(self) -> Member | None:
        """The leader, if its address is known."""
        leader = self._context.replica.state.leader
        return self.membership.get(leader.node) if leader else None

    def let_stand(self) -> None:
        """From now on this node may stand for election: no other process passes for it."""
        self._context.standing.may_stand = True

    def _writer(self) -> Leader | None:
        """The leader; None while writes are kept for the next one, to whom they will be sent. Raises as `_leader`."""
        role = self._role
        if isinstance(role, Follower) and role.holds_writes:
            return None
        return self._leader()

    def _leader(self) -> Leader:
        role = self._role
        if isinstance(role, Leader):
            return role
        if self._context.replica.state.leader == self._context.author:
            raise Busy("the leader is finding out what became of its last append. Try again")
        leader = self.leading_member
        if leader is None or leader.node == self._context.author.node:  # this node, before it was started again
            raise NotLeader(f"{READ_ONLY} Nobody leads now. Try again")
        raise NotLeader(f"{READ_ONLY} {leader.node} leads, at {leader.resp}")
