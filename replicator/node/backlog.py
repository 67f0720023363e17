"""The last records that this leader has committed in its term, and the followers that it sends them to.

A record is sent once it is committed, never before. So whatever a follower receives is in the log, and each record
follows the one before it: what the log has in between is void. The log remains the only truth: a follower that misses
a record, or hears nothing, reads the log (`followed_log`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from replicator.errors import Busy, NotLeader
from replicator.limits import BACKLOG_BYTES
from replicator.position import Epoch, Offset, Seq
from replicator.protocol.log_state import LogState


class Position(NamedTuple):
    """Up to where a follower has read the log. The chain covers all accepted records up to `seq`."""

    timeline: bytes
    epoch: Epoch
    seq: Seq
    chain: bytes

    @staticmethod
    def of(state: LogState) -> Position:
        return Position(state.timeline, state.epoch, state.seq, state.chain)


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: it is encoded once for all followers
class RecordGroup:
    """Records with consecutive offsets and seqs."""

    base: Offset  # of the first record
    seq: Seq  # the same
    payloads: Sequence[bytes]
    chains: Sequence[bytes]  # after each record
    size: int  # of the payloads, in bytes

    @property
    def last_seq(self) -> int:
        return self.seq + len(self.payloads) - 1

    def after(self, seq: Seq) -> RecordGroup:
        """Its records after that one."""
        skipped = seq - self.seq + 1
        payloads = self.payloads[skipped:]
        return RecordGroup(
            Offset(self.base + skipped), Seq(seq + 1), payloads, self.chains[skipped:], sum(map(len, payloads))
        )


class FollowerLink(Protocol):
    """The leader's end of a link to one follower."""

    def send(self, group: RecordGroup) -> None: ...

    def request_ack(self) -> None:
        """Ask for an ack of what was sent so far, at once."""
        ...

    def close(self) -> None: ...


class Backlog:
    def __init__(self) -> None:
        self._groups: deque[RecordGroup] = deque()
        self._bytes = 0  # of all groups
        self._start: Position | None = None  # before the first group; None: this node is not leader
        self._links: dict[FollowerLink, None] = {}

    @contextmanager
    def term(self, state: LogState) -> Iterator[None]:
        """To be held while this node is leader and appends from `state` on. At its end, all links are closed."""
        self._start = Position.of(state)
        try:
            yield
        finally:
            self._start = None
            self._groups.clear()
            self._bytes = 0
            links, self._links = self._links, {}
            for link in links:
                link.close()

    def add(self, group: RecordGroup) -> None:
        """The group is committed. It follows the one before, but for void entries."""
        assert self._start is not None
        self._groups.append(group)
        self._bytes += group.size
        while self._bytes > BACKLOG_BYTES and len(self._groups) > 1:
            first = self._groups.popleft()
            self._bytes -= first.size
            self._start = self._start._replace(seq=Seq(first.last_seq), chain=first.chains[-1])
        for link in list(self._links):
            link.send(group)

    def follow(self, position: Position, link: FollowerLink) -> Sequence[RecordGroup]:
        """Returns what the caller has to send first. From then on, each group is sent when it is committed.

        Raises `NotLeader`, and `Busy` if the records after `position` are not here, or the leader has read others
        before it.
        """
        start = self._start
        if start is None or position[:2] != start[:2]:
            raise NotLeader(f"this node does not lead epoch {position.epoch} of timeline {position.timeline.hex()}")
        if self._chain_at(position.seq) != position.chain:
            raise Busy(f"the records after seq {position.seq} are not in the backlog: read the log")
        self._links[link] = None
        ahead = (group for group in self._groups if group.last_seq > position.seq)
        return [group if group.seq > position.seq else group.after(position.seq) for group in ahead]

    def unfollow(self, link: FollowerLink) -> None:
        self._links.pop(link, None)

    def request_acks(self) -> None:
        for link in list(self._links):
            link.request_ack()

    def _chain_at(self, seq: Seq) -> bytes | None:
        """None: the seq is not here."""
        if self._start is not None and seq == self._start.seq:
            return self._start.chain
        found = (group.chains[seq - group.seq] for group in self._groups if group.seq <= seq <= group.last_seq)
        return next(found, None)
