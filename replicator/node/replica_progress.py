"""How far each replica has applied the log, according to its acks. A node receives them while it is leader.

Only the acks of members count, and of the process that has registered as the member (`protocol.registration`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

from replicator.errors import BrokerUnavailable, Busy, Unblocked
from replicator.intervals import ACK_RETRY_MS
from replicator.log.port import Acks
from replicator.node.ack_waiters import AckWaiters
from replicator.node.clock import Clock
from replicator.node.commit_times import CommitTimes
from replicator.node.outage_log import OutageLog
from replicator.position import BEFORE_LOG, Author, Epoch, NodeId, Offset
from replicator.protocol.log_state import LogState
from replicator.records.codec import AckCodec, NotARecord
from replicator.records.types import Ack, Membership

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LastAck:
    ack: Ack
    at_ms: float  # when it was received, on this node's clock
    streamed_ms: float  # when one last came over a stream, directly or passed on; -inf: none did


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """A replica, as this leader knows it."""

    node: NodeId
    offset: Offset  # the last one that it acked, but not beyond that of this leader; -1 without an ack
    ack_age_ms: float  # since its last ack; without one, since it became a member in this term
    is_responsive: bool


@dataclass(frozen=True, slots=True)
class ReplicaLag:
    """How far a replica is behind the last record that this leader has committed, according to its last ack.

    A replica that has not acked in this term is at least as far behind as the term is long.
    """

    records: int
    seconds: float  # since the first of them was committed


class ReplicaProgress:
    def __init__(self, own: Author, acks: Acks, clock: Clock, request_acks: Callable[[], None]) -> None:
        """`request_acks`: ask the replicas that can be asked for their acks, at once."""
        self._own = own
        self._timeline = b""
        self._epoch = Epoch(0)
        self._skip_old = True  # acks that were sent while another node was leader
        self._acks = acks
        self._clock = clock
        self._codec = AckCodec()
        self.arrived = asyncio.Event()  # set when an ack was recorded; the leader clears it
        self._next: list[asyncio.Future[None]] = []  # of those who wait for the next ack
        self._request_acks = request_acks
        self._waiters = AckWaiters()
        self._latest: dict[Author, LastAck] = {}  # also of a process that acks its registration before it is committed
        self._begin = BEFORE_LOG  # where this term began
        self._committed = BEFORE_LOG  # the last committed offset
        self._commit_times = CommitTimes()
        self._members: dict[Author, float] = {}  # all but this process: since when it has been a member in this term

    @contextmanager
    def term(self, state: LogState, membership: Membership) -> Iterator[None]:
        """To be held while this node is leader, for each part of its term. At its end, all waits for acks end.

        Only acks of this timeline and epoch count. Kafka may have lost what a replica acked before it read the claim,
        and other records may be at those offsets now.
        """
        if (state.timeline, state.epoch) != (self._timeline, self._epoch):
            self._timeline, self._epoch = state.timeline, state.epoch
            self._latest.clear()
            self._members.clear()
            self._skip_old = True
            self._begin = state.offset
            self._commit_times.clear()
        self._committed = state.offset
        self.set_members(membership)
        self._unblock()
        try:
            yield
        finally:
            self._unblock()

    def set_members(self, membership: Membership) -> None:
        """The committed membership."""
        now_ms, before = self._clock.elapsed_ms(), self._members
        authors = (member.author for member in membership.members if member.author != self._own)
        self._members = {author: before.get(author, now_ms) for author in authors}
        self._latest = self._of_members()

    def note_committed(self, end: Offset, now_ms: float) -> None:
        """The log is committed up to `end`."""
        self._committed = end
        self._commit_times.note(end, now_ms)

    @property
    def latest(self) -> dict[NodeId, LastAck]:
        return {author.node: last for author, last in self._of_members().items()}

    async def receive_from_topic(self) -> None:
        """Run until cancelled: record the acks on the ack topic."""
        outage = OutageLog(logger, "reading acks from Kafka")
        while True:
            try:
                if self._skip_old:
                    await self._acks.skip()
                    self._skip_old = False
                payloads = await self._acks.receive()
            except BrokerUnavailable as error:
                outage.failed(error)
                await self._clock.sleep(ACK_RETRY_MS)
                continue
            outage.ended()
            for payload in payloads:
                self.record(payload)

    def record(self, payload: bytes, senders: Container[Author] | None = None) -> None:
        """Record an ack from the topic, or from a stream that carries the acks of `senders`.

        Acks may arrive out of order, so the highest offset counts.
        """
        try:
            ack = self._codec.decode(payload)
        except NotARecord as error:
            logger.warning("%s", error)
            return
        if ack.author == self._own or (ack.timeline, ack.epoch) != (self._timeline, self._epoch):
            return  # this process sent it as a follower, or it is not of this term
        if senders is not None and ack.author not in senders:
            logger.warning("a stream has brought an ack of %s, which does not receive records through it", ack.author)
            return
        last = self._latest.get(ack.author)
        latest = ack if last is None or last.ack.offset <= ack.offset else last.ack
        now_ms = self._clock.elapsed_ms()
        before_ms = -inf if last is None else last.streamed_ms
        self._latest[ack.author] = LastAck(latest, now_ms, before_ms if senders is None else now_ms)
        self._waiters.advance([last.ack.offset for last in self._of_members().values()])
        waiting, self._next = self._next, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        self.arrived.set()

    def acked(self, replica: Author) -> Offset:
        last = self._latest.get(replica)
        return BEFORE_LOG if last is None else last.ack.offset

    def streamed_ms(self, replica: Author) -> float:
        """When its last ack came over its stream; -inf: none did."""
        last = self._latest.get(replica)
        return -inf if last is None else last.streamed_ms

    def is_responsive(self, replica: Author, timeout_ms: float) -> bool:
        """Whether its last ack is not older; without one, the time counts from when it became a member."""
        return self._clock.elapsed_ms() - self._heard_ms(replica) <= timeout_ms

    def reports(self, state: LogState, committed_ms: float, timeout_ms: float) -> tuple[ReplicaReport, ...]:
        """Of all members but this process; empty if the term of `state`, which this node has applied, is another one.

        `committed_ms`: when its last committed record was sent. It applies a record after the replicas that ack it.

        A replica acks records, so without any it is not unresponsive: only one that had not acked for `timeout_ms`
        when the last record was sent.
        """
        if (state.timeline, state.epoch) != (self._timeline, self._epoch):
            return ()
        now_ms = self._clock.elapsed_ms()
        heard_ms = {author: self._heard_ms(author) for author in self._members}
        return tuple(
            ReplicaReport(
                author.node,
                min(self.acked(author), state.offset),
                now_ms - since_ms,
                is_responsive=committed_ms - since_ms <= timeout_ms,
            )
            for author, since_ms in heard_ms.items()
        )

    def lags(self, state: LogState) -> dict[NodeId, ReplicaLag]:
        """Of the same replicas as `reports`."""
        if (state.timeline, state.epoch) != (self._timeline, self._epoch):
            return {}
        now_ms = self._clock.peek_s() * 1000
        return {author.node: self._lag(author, now_ms) for author in self._members}

    def _lag(self, replica: Author, now_ms: float) -> ReplicaLag:
        acked = max(self._begin, self.acked(replica))
        seconds = self._commit_times.waiting_ms(acked, now_ms) / 1000
        return ReplicaLag(max(0, self._committed - acked), seconds)

    def count(self, offset: Offset) -> int:
        """How many replicas have applied up to `offset`."""
        return sum(last.ack.offset >= offset for last in self._of_members().values())

    async def wait(self, offset: Offset, replicas: int, timeout_ms: float) -> int:
        """Wait until `replicas` of them have applied `offset`, or for `timeout_ms` (0: no timeout).

        Returns how many have. Raises `Unblocked` if this node loses leadership.
        """
        if (count := self.count(offset)) >= replicas:
            return count
        self._request_acks()
        await self._waiters.wait(offset, replicas, timeout_ms)
        return self.count(offset)

    async def caught_up(self, node: NodeId, offset: Offset, timeout_ms: float) -> Author:
        """Wait for a new ack of `node` that it has applied `offset`. Returns the author of that ack.

        Raises `Busy` after `timeout_ms`.
        """
        asked_ms = self._clock.elapsed_ms()
        last: LastAck | None = None
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                self._request_acks()
                while (last := self.latest.get(node)) is None or last.at_ms < asked_ms or last.ack.offset < offset:
                    self._next.append(asyncio.get_running_loop().create_future())
                    await self._next[-1]
        except TimeoutError:
            behind = last is not None and last.ack.offset < offset
            state = f"is at offset {last.ack.offset} of {offset}" if last and behind else "is unresponsive"
            raise Busy(
                f"{node} {state}: it cannot become leader before it has caught up. Try again, or choose another"
            ) from None
        return last.ack.author

    def _heard_ms(self, replica: Author) -> float:
        """When its last ack was received; without one, since when it has been a member in this term."""
        last = self._latest.get(replica)
        return self._members[replica] if last is None else last.at_ms

    def _of_members(self) -> dict[Author, LastAck]:
        return {author: last for author, last in self._latest.items() if author in self._members}

    def _unblock(self) -> None:
        why = "force unblock from blocking operation, instance state changed (master -> replica?)"
        self._waiters.fail(Unblocked(why))
