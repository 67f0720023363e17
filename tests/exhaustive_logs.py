"""Short logs as a tree in which each record is judged once. A log is identified by the index of its last record."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.acceptance import judge
from replicator.protocol.log_state import LogState, Void
from replicator.records.chain import link
from replicator.records.types import VERSION, Claim, Header, Heartbeat, Reason, Record, Timing, Write

TIMELINE = b"t" * 16
EMPTY = 0


class MessageKind(StrEnum):
    WRITE = "write"
    HEARTBEAT = "heartbeat"
    TIMING = "timing"
    ELECTION = Reason.ELECTION.value
    RESOLVE = Reason.RESOLVE.value
    HANDOVER = Reason.HANDOVER.value
    FORCE = Reason.FORCE.value


class Message(NamedTuple):
    """A record in flight."""

    kind: MessageKind
    author: int
    subject: int  # the leader that a claim names, or the number of a timing
    known: int  # the log that its author has read


class LogNode(NamedTuple):
    before: int
    state: LogState
    record: Record | None
    void: Void | None
    writes: tuple[Offset, ...]  # of each author's last accepted write


class LogTree:
    def __init__(self, nodes: int, timings: Sequence[Timing] = ()) -> None:
        self.timings = timings
        self.authors = [Author(NodeId("ABC"[number]), number) for number in range(nodes)]
        self._tree = [LogNode(EMPTY, LogState(), None, None, (Offset(-1),) * nodes)]
        self._longer: dict[tuple[int, Message], int] = {}
        self.first = self.append(EMPTY, self.claim(Reason.FIRST, self.authors[0], self.authors[0], EMPTY), 0)

    def __getitem__(self, log: int) -> LogNode:
        return self._tree[log]

    def arrive(self, log: int, message: Message) -> int:
        longer = self._longer.get((log, message))
        if longer is None:
            longer = self._longer[log, message] = self.append(log, self.record(message), message.author)
        return longer

    def since(self, known: int, log: int) -> list[LogNode]:
        """The records after `known` in `log`."""
        records: list[LogNode] = []
        while log != known:
            records.append(self._tree[log])
            log = self._tree[log].before
        return records[::-1]

    def append(self, log: int, record: Record, author: int) -> int:
        before = self._tree[log]
        offset = Offset(before.state.offset + 1)
        state, void = judge(before.state, offset, record)
        writes = before.writes
        if void is None and type(record.body) is Write:
            writes = (*writes[:author], offset, *writes[author + 1 :])
        self._tree.append(LogNode(log, state, record, void, writes))
        return len(self._tree) - 1

    def record(self, message: Message) -> Record:
        """The record as a node writes it that has read the log up to `known`."""
        kind, author, subject, known = message
        if kind not in (MessageKind.WRITE, MessageKind.HEARTBEAT, MessageKind.TIMING):
            return self.claim(Reason(kind.value), self.authors[author], self.authors[subject], known)
        state = self._tree[known].state
        encoded = f"{kind} {author} {subject} {known}".encode()
        chain = link(state.chain, encoded)
        header = Header(VERSION, TIMELINE, state.epoch, self.authors[author], Seq(state.seq + 1), 0, chain)
        if kind is MessageKind.TIMING:
            return Record(header, self.timings[subject], encoded)
        return Record(header, Write(()) if kind is MessageKind.WRITE else Heartbeat(), encoded)

    def claim(self, reason: Reason, author: Author, leader: Author, known: int) -> Record:
        state = self._tree[known].state
        epoch = Epoch(state.epoch + 1)
        header = Header(VERSION, TIMELINE, epoch, author, state.seq, 0, state.chain)
        return Record(header, Claim(leader, epoch, state.offset, reason), f"{reason} {author} {leader}".encode())
