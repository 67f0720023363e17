"""Writes between submission and their end, in order.

    queued ──take──▶ sent ──applied──▶ OK
       │              │ └─────land────▶ landed ──confirm──▶ OK
       │              │                    └─────disown───▶ UNKNOWN: in the log, its acks are another leader's
       │              └───────fence───▶ REJECTED: void, another claim was accepted before it came
       └──reject, give_up─────────────▶ REJECTED: never appended

Every write saw the ones before it, so one that is void takes all later ones with it. A write that is still here after
its deadline is answered with UNKNOWN and stays until its fate is read in the log. The leader's own records change no
rows, so they need not queue up behind the writes of clients: they go first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice

from replicator.errors import Busy, Definite, Fenced, ReplicatorError, Unknown
from replicator.position import BEFORE_LOG, Epoch, Offset, Seq
from replicator.records.types import Body, Change
from replicator.store.view import Overlay, View

Done = Callable[[ReplicatorError | None, Offset], None]
"""Called once, when a write has ended: None = OK at that offset; `Definite` = REJECTED; `Indefinite` = UNKNOWN."""


class PendingWrite:
    """One record to be: a client's write, or one of the leader's own."""

    __slots__ = ("body", "changes", "deadline_ms", "done", "encoded", "epoch", "left", "offset", "seq")

    def __init__(
        self, body: Body, encoded: bytes, changes: Mapping[bytes, Change], done: Done | None, deadline_ms: float
    ) -> None:
        self.body = body
        self.encoded = encoded
        self.changes = changes  # of `body`, by store key
        self.done = done  # None once it has been answered
        self.deadline_ms = deadline_ms
        self.epoch = Epoch(0)
        self.seq = Seq(0)  # 0: not sent
        self.offset = BEFORE_LOG  # where it is expected
        self.left: asyncio.Future[None] | None = None  # for whoever waits until it is in flight no more

    def answer(self, error: ReplicatorError | None, offset: Offset) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(error, offset)


class Writes:
    def __init__(self, base: View) -> None:
        self.overlay = Overlay(base)
        self.bytes = 0  # of all encoded bodies here
        self._own: deque[PendingWrite] = deque()  # queued records of the leader itself
        self._queued: deque[PendingWrite] = deque()
        self._sent: deque[PendingWrite] = deque()
        self._landed: deque[PendingWrite] = deque()  # applied while following, not known to be confirmed
        self.given_up = 0  # how often the queue was cleared

    def __len__(self) -> int:
        return len(self._own) + len(self._queued) + len(self._sent) + len(self._landed)

    @property
    def queued(self) -> bool:
        """Whether a client's write waits."""
        return bool(self._queued)

    @property
    def sent(self) -> bool:
        return bool(self._sent)

    async def settled(self) -> None:
        """Wait until nothing is in flight any more of what is now."""
        while tail := (self._queued or self._sent):
            last = tail[-1]
            if last.left is None:
                last.left = asyncio.get_running_loop().create_future()
            await asyncio.wait([last.left])
            if last.seq:  # was sent, so all before it, too
                return

    def add(self, pending: PendingWrite) -> None:
        self.overlay.push(pending.changes)
        self.bytes += len(pending.encoded)
        self._queued.append(pending)

    def add_own(self, pending: PendingWrite) -> None:
        """Queue a record without changes, of the leader itself."""
        self.bytes += len(pending.encoded)
        self._own.append(pending)

    def take_own(self) -> list[PendingWrite]:
        """The leader's own records that are queued, now counted as sent."""
        group = list(self._own)
        self._own.clear()
        self._sent.extend(group)
        return group

    def next(self, max_records: int, max_bytes: int) -> list[PendingWrite]:
        """The next writes to append: at least one if any is queued."""
        group: list[PendingWrite] = []
        size = 0
        for pending in islice(self._queued, max_records):
            size += len(pending.encoded)
            if group and size > max_bytes:
                break
            group.append(pending)
        return group

    def take(self, group: Sequence[PendingWrite]) -> None:
        """The first of the queue are sent now."""
        for _ in group:
            self._queued.popleft()
        self._sent.extend(group)

    def applied(self, epoch: Epoch, seq: Seq, offset: Offset) -> None:
        """The record of this node with that epoch and seq is in the store, and confirmed."""
        pending = self._come(epoch, seq)
        if pending is not None:
            pending.answer(None, offset)

    def land(self, epoch: Epoch, seq: Seq, offset: Offset) -> None:
        """That record is in the store; whether the replicas that the policy names have it, too, is not known."""
        pending = self._come(epoch, seq)
        if pending is not None:
            pending.offset = offset  # others may have written between
            self._landed.append(pending)

    def confirm(self, offset: Offset) -> None:
        """The replicas have all up to `offset`."""
        while self._landed and self._landed[0].offset <= offset:
            pending = self._landed.popleft()
            pending.answer(None, pending.offset)

    def disown(self) -> None:
        """Another node leads: it, and not this one, learns what is confirmed."""
        while self._landed:
            pending = self._landed.popleft()
            pending.answer(Unknown(pending.offset, "is in the log, but the lead was lost before its acks"), BEFORE_LOG)

    def _come(self, epoch: Epoch, seq: Seq) -> PendingWrite | None:
        if not self._sent or self._sent[0].epoch != epoch or self._sent[0].seq != seq:
            return None
        pending = self._sent.popleft()
        self._forget(pending)
        return pending

    def fence(self, epoch: Epoch) -> None:
        """A claim of `epoch` was accepted: what was sent before and has not come is void."""
        if self._sent and self._sent[0].epoch < epoch:
            self.reject(Fenced("another claim to the lead came first: the write is void. Try again"))

    def reject(self, error: Definite) -> None:
        """Nothing that is here is in the log, nor will be."""
        self._clear(lambda pending: error)

    def abandon(self, why: str) -> None:
        """This node will not learn what becomes of what it sent."""
        self._clear(lambda pending: Unknown(pending.offset, why) if pending.seq else Busy(f"not written: {why}"))

    def expire(self, now_ms: float) -> None:
        """Answer what is overdue. Queued writes are given up, with all that came after them."""
        for pending in chain(self._landed, self._sent):
            if pending.deadline_ms > now_ms:
                break
            pending.answer(Unknown(pending.offset, "was sent to the log, but not confirmed in time"), pending.offset)
        if self._queued and self._queued[0].deadline_ms <= now_ms:
            self.give_up(Busy("the log takes no writes at the moment. Try again"))

    def give_up(self, error: Definite) -> None:
        """What is queued is not sent."""
        self._drop([*self._queued], error)

    def refuse(self, group: Sequence[PendingWrite], error: Definite) -> None:
        """The group that was sent last is not in the log, nor will be; what is queued behind it has seen it."""
        for pending in group:
            self._sent.pop()
            pending.seq = Seq(0)
        self._drop([*group, *self._queued], error)

    def _drop(self, dropped: Sequence[PendingWrite], error: Definite) -> None:
        self.given_up += 1
        self._queued.clear()
        for pending in dropped:
            self._forget(pending)
        self.overlay.clear()  # what was dropped may have been laid over what stays
        for pending in self._sent:
            self.overlay.push(pending.changes)
        for pending in dropped:
            pending.answer(error, BEFORE_LOG)

    def _clear(self, error_of: Callable[[PendingWrite], ReplicatorError]) -> None:
        self.disown()
        self.given_up += 1
        ended = [*self._sent, *self._own, *self._queued]
        self._sent.clear()
        self._own.clear()
        self._queued.clear()
        self.overlay.clear()
        self.bytes = 0
        for pending in ended:
            if pending.left is not None and not pending.left.done():
                pending.left.set_result(None)
            pending.answer(error_of(pending), pending.offset)

    def _forget(self, pending: PendingWrite) -> None:
        self.bytes -= len(pending.encoded)
        self.overlay.pop(pending.changes)
        if pending.left is not None and not pending.left.done():
            pending.left.set_result(None)
