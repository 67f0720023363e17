"""The role of this process, and the state that goes with it: its lease and timing, its transfer, its eligibility.

The role changes only here. Each method handles one event of `protocol.roles`, and settles the writes in flight as
`protocol.roles.SETTLEMENTS` requires.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from math import inf

from replicator.errors import Busy, Definite, NotLeader
from replicator.node.clock import Clock
from replicator.node.writes import Writes
from replicator.position import BEFORE_LOG, Author, Epoch, Offset, Seq
from replicator.protocol.ack_policy import local_readers
from replicator.protocol.lease import Lease
from replicator.protocol.roles import KEEP, SETTLEMENTS, Event, Role, advance
from replicator.protocol.timeline import continued_by
from replicator.protocol.timing import TimingState, old_lease_ms
from replicator.records.types import Claim, Header, Membership, Timing

logger = logging.getLogger(__name__)

NO_EPOCH = Epoch(0)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer of leadership to `successor`. `done` ends once the claim is in the log, or raises `Busy`."""

    successor: Author
    done: asyncio.Future[None]
    deadline_ms: float  # for the acks of the writes in flight

    def fail(self, error: Definite) -> None:
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True, slots=True)
class AppendFailure:
    """Of the last append or claim: it was refused, or its outcome is unknown."""

    cause: str
    log_answers: bool  # False: nor did Kafka answer a request for the end of the log, which follows a refusal


class RoleState:
    def __init__(self, author: Author, writes: Writes, clock: Clock, timing: TimingState, *, eligible: bool) -> None:
        self._author = author
        self._writes = writes
        self._clock = clock
        self._claims_sent_ms: dict[Epoch, float] = {}
        """By epoch that has not begun: when its claim was first sent. Any copy of it may be the accepted one."""
        self.role = Role.FOLLOWER
        self.timing = timing  # as of the last record that this process has read, or committed as leader
        self.eligible = eligible  # for elections; not before it is known that no other process uses this node's id
        self.lease = Lease()  # of this process; valid only in the roles leader and draining
        self.write_from_ms = 0.0  # until then, a former sync replica may answer reads without knowing of new writes
        self.transfer: Transfer | None = None  # set exactly in DRAINING, TRANSFERRING and STEPPING_DOWN
        self.check_until = BEFORE_LOG  # in CHECKING: the end of this node's last append
        self._check_sent_ms: float | None = None  # in CHECKING: when it was sent, if its answer was unexpected
        self.term_start_seq = Seq(0)  # while it leads: records up to here were written by earlier leaders
        self.last_contact_ms = clock.elapsed_ms()  # when an accepted record or a heartbeat was last received
        self.lease_needed = asyncio.Event()  # set by reads that wait for the lease; `Heartbeats` clears it
        self.lease_used = False  # set by reads that rely on the lease; `Heartbeats` clears it
        self.is_idle = False  # while it leads: it renews its lease only for a read (`protocol.pace`)
        self.stepped_down_ms = -inf  # when it was last leader
        self.append_failure: AppendFailure | None = None  # None once a record was read or committed after it

    # Derived state

    def lease_left_ms(self) -> float:
        """How long reads here are certainly current; 0: they may not be."""
        if self.role is not Role.LEADER and self.role is not Role.DRAINING:
            return 0.0
        return self.lease.left_ms(self._clock.elapsed_ms(), self.timing.current.lease_ms)

    def holds_leadership(self) -> bool:
        """Whether this leader holds its lease, or renews it as soon as a read needs it."""
        return self.lease_left_ms() > 0 or self.is_idle

    @property
    def log_unavailable(self) -> bool:
        """Whether this node leads, but Kafka neither takes its records nor answers."""
        return self.role.leads and self.append_failure is not None and not self.append_failure.log_answers

    @property
    def last_commit_ms(self) -> float:
        """When this leader sent its last committed record; -inf if it has sent none."""
        return -inf if self.lease.from_ms is None else self.lease.from_ms

    def leader_silent_ms(self) -> float:
        """Time since the last record or heartbeat of the leader was received; 0 if this node leads."""
        return 0.0 if self.role.leads else self._clock.elapsed_ms() - self.last_contact_ms

    def delays_writes(self) -> bool:
        """Whether this node, if it is leader, has to wait before it appends or confirms clients' writes."""
        now_ms = self._clock.elapsed_ms()
        return now_ms < self.write_from_ms or self.lease.wait_ms(now_ms) > 0

    # Events

    def claim_sent(self, epoch: Epoch) -> None:
        self._advance(Event.CLAIM_SENT)
        self._claims_sent_ms.setdefault(epoch, self._clock.elapsed_ms())

    def record_read(self, author: Author) -> None:
        """An accepted record that is not a claim was read from the log."""
        self.append_failure = None
        if self.role is Role.CANDIDATE:
            self._advance(Event.CLAIM_OUTDATED, successor=author)
        elif self.role is Role.STEPPING_DOWN and self.transfer is not None and author == self.transfer.successor:
            self._advance(Event.SUCCESSOR_STARTED, successor=author)

    def claim_accepted(self, header: Header, claim: Claim, seq: Seq) -> None:
        """`seq`: the position of the store, at this claim or after it."""
        self.append_failure = None
        sent_ms = self._claims_sent_ms.pop(claim.epoch, None)
        if claim.leader == self._author:
            if header.author != self._author:
                sent_ms = None
            self._advance(Event.OWN_CLAIM_ACCEPTED, epoch=claim.epoch)
            now_ms = self._clock.elapsed_ms()
            self.lease = self.lease.claimed(claim.reason, sent_ms, now_ms, self.timing.longest_lease_ms(now_ms))
            self.term_start_seq = seq
        elif self.role is Role.STEPPING_DOWN and self.transfer is not None and claim.leader == self.transfer.successor:
            self._advance(Event.SUCCESSOR_CLAIM_ACCEPTED)
        else:
            self._advance(Event.OTHER_CLAIM_ACCEPTED, epoch=claim.epoch, successor=claim.leader)

    def append_committed(self, sent_ms: float) -> None:
        """A record of this leader that was sent at `sent_ms` is committed. The role stays the same."""
        self.lease = self.lease.renewed(sent_ms)
        self.append_failure = None
        self.is_idle = False

    def append_failed(self, error: Exception) -> None:
        """An append or a claim was refused, or its outcome is unknown. The role stays the same."""
        self.append_failure = AppendFailure(str(error), log_answers=not self.log_unavailable)
        self.is_idle = False

    def log_asked(self, *, answers: bool) -> None:
        """The log was asked for its end after it had refused an append. The role stays the same."""
        if self.append_failure is not None:
            self.append_failure = AppendFailure(self.append_failure.cause, log_answers=answers)

    def idle_began(self) -> None:
        """From now on, this leader renews its lease only for a read (`protocol.pace`). The role stays the same."""
        self.is_idle = True

    def idle_ended(self) -> None:
        """Before the outcome of an append is known. The role stays the same."""
        self.is_idle = False

    def append_unknown(self) -> None:
        self._advance(Event.APPEND_OUTCOME_UNKNOWN)

    def append_misplaced(self, last: Offset, sent_ms: float) -> None:
        """`last`: where the append ends."""
        self._advance(Event.APPEND_MISPLACED)
        self.check_until, self._check_sent_ms = last, sent_ms

    def append_not_applied(self, last: Offset) -> None:
        self._advance(Event.APPEND_NOT_APPLIED)
        self.check_until, self._check_sent_ms = last, None

    def check_passed(self, seq: Seq) -> None:
        """A misplaced append was accepted: it renews the lease as any other, or foreign entries could end the lease."""
        self._advance(Event.CHECK_PASSED)
        if self._check_sent_ms is not None:
            self.lease = self.lease.renewed(self._check_sent_ms)
        self.term_start_seq = seq

    def request_transfer(self, successor: Author, timeout_ms: float) -> asyncio.Future[None]:
        """Ends once the claim is in the log. Raises `Busy`, or the future does."""
        if self.transfer is not None:
            raise Busy(f"leadership is already being transferred to {self.transfer.successor.node}")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._advance(Event.TRANSFER_REQUESTED)
        self.transfer = Transfer(successor, done, self._clock.elapsed_ms() + timeout_ms)
        self._writes.arrived.set()
        return done

    def transfer_claim_sent(self) -> None:
        self._advance(Event.TRANSFER_CLAIM_SENT)

    def transfer_timed_out(self) -> None:
        self._fail_transfer("what is in the log was not acknowledged in time")
        self._advance(Event.TRANSFER_TIMED_OUT)
        self._writes.arrived.set()

    def transfer_refused(self, error: Exception) -> None:
        self._fail_transfer(str(error))
        self._advance(Event.TRANSFER_REFUSED)
        self._writes.arrived.set()

    def transfer_committed(self) -> None:
        self._advance(Event.TRANSFER_COMMITTED)
        if self.transfer is not None and not self.transfer.done.done():
            self.transfer.done.set_result(None)

    def stop(self, why: str) -> None:
        """The node has failed, was replaced or stops: it stays in its role, but neither appends nor reads any more."""
        self._fail_transfer(why)
        self._writes.stop(why)

    def membership_changed(self, before: Membership, after: Membership) -> None:
        """A replica that may no longer answer reads locally may not have read that record yet: delay writes."""
        if local_readers(before) - local_readers(after):
            now_ms = self._clock.elapsed_ms()
            wait_ms = old_lease_ms(self.timing.longest_follower_lease_ms(now_ms))
            self.write_from_ms = max(self.write_from_ms, now_ms + wait_ms)

    def timing_changed(self, timing: Timing) -> None:
        """Called with each record of the timing, when it is read or committed."""
        self.timing = self.timing.read(timing, self._clock.elapsed_ms())

    def _advance(self, event: Event, *, epoch: Epoch = NO_EPOCH, successor: Author | None = None) -> None:
        before, self.role = self.role, advance(self.role, event)
        if before.leads and not self.role.leads:
            self.is_idle = False
            self.stepped_down_ms = self._clock.elapsed_ms()
        if self.transfer is not None and self.role not in (Role.DRAINING, Role.TRANSFERRING, Role.STEPPING_DOWN):
            self._fail_transfer("the node lost leadership meanwhile. See `replicator status`")
            self.transfer = None
        settlement = SETTLEMENTS.get(event, KEEP)
        if settlement.void_sent:
            self._writes.void_sent(epoch)
        if settlement.fail_unacknowledged:
            self._writes.fail_unacknowledged()
        if settlement.refuse_queued and successor is not None:
            self._writes.fail_all(NotLeader(_why_not_sent(successor)))

    def _fail_transfer(self, why: str) -> None:
        if self.transfer is not None:
            self.transfer.fail(Busy(f"leadership was not transferred: {why}"))


def _why_not_sent(successor: Author) -> str:
    name = continued_by(successor)
    if name is not None:
        return f"the cluster was restored, as cluster {name}: the write was not sent. Ask that one"
    return f"{successor.node} is the leader now: the write was not sent. Ask it"
