"""Writes between submission and their end, in order.

    queued ──take──▶ sent ──applied──▶ OK
       │               └───fence─────▶ REJECTED: void, another claim was accepted before it came
       └──reject────▶ REJECTED: never appended

Every write saw the ones before it, so one that is void takes all later ones with it. A write that is still here after
its deadline is answered with UNKNOWN and stays until its fate is read in the log. The leader's own records change no
rows, so they need not queue up behind the writes of clients: they go first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from replicator.errors import Busy, Definite, Fenced, ReplicatorError, Unknown
from replicator.position import BEFORE_LOG, Epoch, Offset, Seq
from replicator.records.types import Body, Change
from replicator.store.view import Overlay, View

Done = Callable[[ReplicatorError | None, Offset], None]
"""Called once, when a write has ended: None = OK at that offset; `Definite` = REJECTED; `Indefinite` = UNKNOWN."""


class Pending:
    """One record to be: a client's write, or one of the leader's own."""

    __slots__ = ("body", "changes", "deadline_ms", "done", "encoded", "epoch", "offset", "seq")

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

    def answer(self, error: ReplicatorError | None, offset: Offset) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(error, offset)


class Inflight:
    def __init__(self, base: View) -> None:
        self.overlay = Overlay(base)
        self.bytes = 0  # of all encoded bodies here
        self._own: deque[Pending] = deque()  # queued records of the leader itself
        self._queued: deque[Pending] = deque()
        self._sent: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._own) + len(self._queued) + len(self._sent)

    @property
    def queued(self) -> bool:
        """Whether a client's write waits."""
        return bool(self._queued)

    @property
    def sent(self) -> bool:
        return bool(self._sent)

    def add(self, pending: Pending) -> None:
        self.overlay.lay(pending.changes)
        self.bytes += len(pending.encoded)
        self._queued.append(pending)

    def add_own(self, pending: Pending) -> None:
        """Queue a record without changes, of the leader itself."""
        self.bytes += len(pending.encoded)
        self._own.append(pending)

    def take_own(self) -> list[Pending]:
        """The leader's own records that are queued, now counted as sent."""
        group = list(self._own)
        self._own.clear()
        self._sent.extend(group)
        return group

    def take(self, max_records: int, max_bytes: int) -> list[Pending]:
        """The next writes to append, now counted as sent: at least one if any is queued."""
        group: list[Pending] = []
        size = 0
        while self._queued and len(group) < max_records:
            size += len(self._queued[0].encoded)
            if group and size > max_bytes:
                break
            group.append(self._queued.popleft())
        self._sent.extend(group)
        return group

    def applied(self, epoch: Epoch, seq: Seq, offset: Offset) -> None:
        """The record of this node with that epoch and seq is in the store."""
        if not self._sent or self._sent[0].epoch != epoch or self._sent[0].seq != seq:
            return
        pending = self._sent.popleft()
        self._forget(pending)
        pending.answer(None, offset)

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
        for pending in self._sent:
            if pending.deadline_ms > now_ms:
                return
            pending.answer(Unknown(pending.offset, "was sent to the log, but not confirmed in time"), pending.offset)
        if self._queued and self._queued[0].deadline_ms <= now_ms:
            for pending in self._queued:
                self._forget(pending)
                pending.answer(Busy("the log takes no writes at the moment. Try again"), BEFORE_LOG)
            self._queued.clear()

    def _clear(self, error_of: Callable[[Pending], ReplicatorError]) -> None:
        ended = [*self._sent, *self._own, *self._queued]
        self._sent.clear()
        self._own.clear()
        self._queued.clear()
        self.overlay.clear()
        self.bytes = 0
        for pending in ended:
            pending.answer(error_of(pending), pending.offset)

    def _forget(self, pending: Pending) -> None:
        self.bytes -= len(pending.encoded)
        self.overlay.lift(pending.changes)
