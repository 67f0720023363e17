"""Writes between submission and their end, in order.

    state          next              by                                           answer
    queued         sent              send                                         -
                   ended             fail_queued, fail_all, refuse                REJECTED: never appended
    sent           ended             apply                                        OK
                   awaiting acks     await_acks: applied, but not as leader       -
                   ended             void_sent: a claim came first                REJECTED: void
    awaiting acks  ended             confirm                                      OK
                   ended             fail_unacknowledged: leadership was lost     UNKNOWN: in the log

Each write depends on the ones before it, so a void write makes all later ones void. A write that is still in flight
after its deadline is answered with UNKNOWN, and stays until its outcome is read in the log. The leader's own records
change no rows, so they need not wait for the writes of clients: they are sent first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from itertools import chain, islice

from replicator.errors import Busy, Definite, Fenced, NoReplicas, ReplicatorError, Unknown
from replicator.limits import GROUP_CHANGES
from replicator.position import BEFORE_LOG, Epoch, Offset, Seq
from replicator.records.types import Change, Single
from replicator.store.view import Overlay, View

Done = Callable[[ReplicatorError | None, Offset], None]
"""Called once, when a write has ended: None = OK at that offset; `Definite` = REJECTED; `Indefinite` = UNKNOWN."""


class WriteState(Enum):
    QUEUED = auto()
    SENT = auto()
    AWAITING_ACKS = auto()
    ENDED = auto()


class PendingWrite:
    """A client's write, or a record of the leader's own, between submission and its end."""

    __slots__ = (
        "_done",
        "_ended",
        "body",
        "changes",
        "deadline_ms",
        "encoded",
        "epoch",
        "is_command",
        "offset",
        "seq",
        "state",
    )

    def __init__(
        self,
        body: Single,
        encoded: bytes,
        changes: Mapping[bytes, Change],
        done: Done | None,
        deadline_ms: float,
        *,
        is_command: bool = False,
    ) -> None:
        self.body = body  # as it is applied here
        self.encoded = encoded  # as it is in the log: the body, or the command whose effect it is
        self.is_command = is_command
        self.changes = changes  # of `body`, by store key
        self.deadline_ms = deadline_ms
        self.state = WriteState.QUEUED
        self.epoch = Epoch(0)  # this and the next two are set when it is sent
        self.seq = Seq(0)
        self.offset = BEFORE_LOG  # the expected offset; once applied, its offset
        self._done = done  # None once it has been answered
        self._ended: asyncio.Future[None] | None = None

    def answer(self, error: ReplicatorError | None, offset: Offset) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(error, offset)

    @property
    def in_flight(self) -> bool:
        """Whether it is queued or sent, also if it is overdue and so has been answered already."""
        return self.state is WriteState.QUEUED or self.state is WriteState.SENT

    @property
    def was_refused(self) -> bool:
        """Whether it has ended, and is not in the log."""
        return self.state is WriteState.ENDED and not self.seq

    def applied_or_failed(self) -> asyncio.Future[None]:
        """Ends when the write is no longer queued or sent."""
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def leave(self, state: WriteState) -> None:
        """It is no longer queued or sent."""
        self.state = state
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


class Writes:
    def __init__(self, base: View) -> None:
        self.overlay = Overlay(base)
        self.bytes = 0  # of all encoded bodies that are queued or sent
        self.arrived = asyncio.Event()  # set when the leader has something to do
        self.refusal: NoReplicas | None = None  # why the leader queues no client's write now
        self._own: deque[PendingWrite] = deque()  # queued records of the leader itself
        self._queued: deque[PendingWrite] = deque()
        self._sent: deque[PendingWrite] = deque()
        self._awaiting_acks: deque[PendingWrite] = deque()

    def __len__(self) -> int:
        return len(self._own) + len(self._queued) + len(self._sent) + len(self._awaiting_acks)

    @property
    def queued(self) -> bool:
        """Whether a client's write is queued."""
        return bool(self._queued)

    @property
    def changes_sent(self) -> bool:
        """Whether a record that changes rows was sent, and has not been applied yet."""
        return any(pending.changes for pending in self._sent)

    @property
    def last(self) -> PendingWrite | None:
        """The newest client's write that is queued; if none is, the newest record that was sent and is not applied."""
        tail = self._queued or self._sent
        return tail[-1] if tail else None

    # Queueing and sending

    def add(self, pending: PendingWrite) -> None:
        self.overlay.push(pending.changes)
        self.bytes += len(pending.encoded)
        self._queued.append(pending)
        self.arrived.set()

    def add_own(self, pending: PendingWrite) -> None:
        """Queue a record without changes, of the leader itself."""
        self.bytes += len(pending.encoded)
        self._own.append(pending)
        self.arrived.set()

    def next(self, max_records: int, max_bytes: int) -> list[PendingWrite]:
        """The next writes of clients to send: at least one if any is queued."""
        group: list[PendingWrite] = []
        size = changes = 0
        for pending in islice(self._queued, max_records):
            size += len(pending.encoded)
            changes += len(pending.changes)
            if group and (size > max_bytes or changes > GROUP_CHANGES):
                break
            group.append(pending)
        return group

    def send(self, group: Sequence[PendingWrite]) -> None:
        """Mark `group`, the first writes of the queue, as sent."""
        for pending in group:
            self._queued.popleft()
            pending.state = WriteState.SENT
        self._sent.extend(group)

    def send_own(self) -> list[PendingWrite]:
        """Mark the queued records of the leader itself as sent, and return them."""
        group = list(self._own)
        self._own.clear()
        for pending in group:
            pending.state = WriteState.SENT
        self._sent.extend(group)
        return group

    # Success

    def apply(self, epoch: Epoch, seq: Seq, offset: Offset) -> None:
        """The record of this node with that epoch and seq is applied and confirmed."""
        pending = self._take_sent(epoch, seq, WriteState.ENDED)
        if pending is not None:
            pending.answer(None, offset)

    def await_acks(self, epoch: Epoch, seq: Seq, offset: Offset) -> None:
        """That record is applied here. It is not known whether the replicas that the policy requires have it."""
        pending = self._take_sent(epoch, seq, WriteState.AWAITING_ACKS)
        if pending is not None:
            pending.offset = offset  # records of others may precede it
            self._awaiting_acks.append(pending)

    def confirm(self, offset: Offset) -> None:
        """The replicas that the policy requires have applied the log up to `offset`."""
        while self._awaiting_acks and self._awaiting_acks[0].offset <= offset:
            pending = self._awaiting_acks.popleft()
            pending.state = WriteState.ENDED
            pending.answer(None, pending.offset)

    # Failures

    def void_sent(self, epoch: Epoch) -> None:
        """A claim of `epoch` was accepted: writes of an earlier epoch that were not read before it are void."""
        if self._sent and self._sent[0].epoch < epoch:
            self.fail_all(Fenced("another claim to leadership came first: the write is void. Try again"))

    def fail_unacknowledged(self) -> None:
        """Another node is the leader, and receives the acks."""
        while self._awaiting_acks:
            pending = self._awaiting_acks.popleft()
            pending.state = WriteState.ENDED
            why = "is in the log, but this node lost leadership before the acks arrived"
            pending.answer(Unknown(pending.offset, why), BEFORE_LOG)

    def fail_all(self, error: Definite) -> None:
        """No write that is queued or sent is in the log, or ever will be. Writes that await acks end as UNKNOWN."""
        self._end_all(lambda pending: error)

    def stop(self, why: str) -> None:
        """This node will not learn the outcome of what it sent."""
        self._end_all(
            lambda pending: Unknown(pending.offset, why) if pending.seq else Busy(f"the write was not sent: {why}")
        )

    def expire(self, now_ms: float) -> None:
        """Answer overdue writes. If a queued write is overdue, the whole queue fails."""
        for pending in chain(self._awaiting_acks, self._sent):
            if pending.deadline_ms > now_ms:
                break
            pending.answer(Unknown(pending.offset, "was sent to the log, but not confirmed in time"), pending.offset)
        if self._queued and self._queued[0].deadline_ms <= now_ms:
            self.fail_queued(Busy("the log takes no writes at the moment. Try again"))

    def fail_queued(self, error: Definite) -> None:
        """The queued writes of clients are not sent."""
        self._drop([*self._queued], error)

    def refuse(self, group: Sequence[PendingWrite], error: Definite) -> None:
        """The log refused the group that was sent last. The queued writes depend on it, so they fail, too."""
        for pending in group:
            self._sent.pop()
            pending.seq = Seq(0)
        self._drop([*group, *self._queued], error)

    def _drop(self, dropped: Sequence[PendingWrite], error: Definite) -> None:
        self._queued.clear()
        for pending in dropped:
            self._forget(pending, WriteState.ENDED)
        self.overlay.clear()  # a dropped write may have replaced the value of one that stays
        for pending in self._sent:
            self.overlay.push(pending.changes)
        for pending in dropped:
            pending.answer(error, BEFORE_LOG)

    def _end_all(self, error_of: Callable[[PendingWrite], ReplicatorError]) -> None:
        self.fail_unacknowledged()
        ended = [*self._sent, *self._own, *self._queued]
        self._sent.clear()
        self._own.clear()
        self._queued.clear()
        self.overlay.clear()
        self.bytes = 0
        for pending in ended:
            pending.leave(WriteState.ENDED)
            pending.answer(error_of(pending), pending.offset)

    def _take_sent(self, epoch: Epoch, seq: Seq, state: WriteState) -> PendingWrite | None:
        if not self._sent or self._sent[0].epoch != epoch or self._sent[0].seq != seq:
            return None
        pending = self._sent.popleft()
        self._forget(pending, state)
        return pending

    def _forget(self, pending: PendingWrite, state: WriteState) -> None:
        self.bytes -= len(pending.encoded)
        self.overlay.pop(pending.changes)
        pending.leave(state)
