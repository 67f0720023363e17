"""All orders in which the messages that two nodes can have sent can arrive in the log.

An arrival is a record, or a batch of two, that can be in flight: the next batch of every past or current leader, as
that leader would number it; a copy of every accepted batch; claims of either node for each reason, in an election for
each prefix of the log that the candidate can have read; the bytes of a foreign producer.

Each is judged by `acceptance.judge` and by `is_accepted`, the same rule as a definition over the whole log.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol import acceptance
from replicator.protocol.log_state import LogState
from replicator.records.chain import link
from replicator.records.codec import RecordCodec
from replicator.records.types import VERSION, Change, Claim, Header, Reason, Record, Write
from replicator.store.meta import Meta, decode_meta

NODES = Author(NodeId("A"), 1), Author(NodeId("B"), 2)
FOREIGN = None

Group = tuple[Record | None, ...]
Log = tuple[Record | None, ...]


def is_accepted(log: Log, claims: list[int], at: int) -> bool:
    """Whether the record at `at` is accepted. `claims`: the positions of the accepted claims before it."""
    record = log[at]
    if record is None:
        return False
    header, body = record.header, record.body
    if not isinstance(body, Claim):
        if header.epoch != len(claims) or header.author != _leader(log, claims):
            return False
        since = log[claims[-1] + 1 : at]
        return not any(it and it.header.seq == header.seq and it.header[2:4] == header[2:4] for it in since)
    if body.epoch != len(claims) + 1:
        return False
    match body.reason:
        case Reason.FORCE:
            return True
        case Reason.RESOLVE | Reason.HANDOVER:
            return header.author == _leader(log, claims)
        case Reason.FIRST | Reason.ELECTION:
            unread = range(max(body.observed + 1, claims[-1] if claims else 0), at)
            return header.author == body.leader and not any(p in claims or is_accepted(log, claims, p) for p in unread)


def _leader(log: Log, claims: list[int]) -> Author | None:
    claim = log[claims[-1]] if claims else None
    return claim.body.leader if claim and isinstance(claim.body, Claim) else None


class LeaderTerm(NamedTuple):
    """The accepted batches of one leader."""

    author: Author
    tip: LogState  # after its last accepted record
    groups: tuple[Group, ...] = ()


class LogHistory(NamedTuple):
    log: Log
    states: tuple[LogState, ...]  # of a reader of 0, 1, 2, … records
    claims: list[int]  # positions of the accepted claims
    terms: tuple[LeaderTerm, ...]  # of epoch 1, 2, …
    elections: tuple[Group, ...]  # claims of candidates, one for each prefix of the log


class ArrivalOrders:
    def __init__(self) -> None:
        self.histories = 0
        self._codec = RecordCodec()
        self._encoded = cache(self._codec.encode_body)

    def play(self, arrivals: int, *, with_leader: bool = False) -> None:
        """All histories of that many arrivals, in an empty log or one that begins with A's claim.

        Each record is judged once. The log before the last two arrivals is also replayed, which is slower. Raises
        `AssertionError`.
        """
        history = LogHistory((), (LogState(),), [], (), ())
        if with_leader:
            history = self._arrive(history, self._claim(LogState(), Reason.FIRST, NODES[0], NODES[0]), None)
        self._extend(history, arrivals)

    def _extend(self, history: LogHistory, arrivals: int) -> None:
        read = history.states[len(history.elections) // len(NODES) :]
        history = history._replace(elections=history.elections + tuple(self._candidates(read)))
        for group, term in self._choices(history):
            longer = self._arrive(history, group, term)
            if arrivals == 1:
                self.histories += 1
                continue
            if arrivals > 2:
                self._replay(longer)
            self._extend(longer, arrivals - 1)

    # Messages in flight

    def _choices(self, history: LogHistory) -> Iterator[tuple[Group, LeaderTerm | None]]:
        """Each group that can arrive next, and the term that it continues, if any."""
        here = history.states[-1]
        yield (FOREIGN,), None
        for election in history.elections:
            yield election, None
        for author in NODES:
            yield self._claim(here, Reason.FORCE, author, author), None
            if author != here.leader:  # no node sends this
                yield self._claim(here, Reason.RESOLVE, author, author), None
        for term in history.terms:
            other = NODES[term.author == NODES[0]]
            yield self._claim(term.tip, Reason.RESOLVE, term.author, term.author), None
            yield self._claim(term.tip, Reason.HANDOVER, term.author, other), None
            for group in term.groups:
                yield group, None
            first = self._data(term.tip, term.author)
            yield (first,), term
            yield (first, self._data(_after(term.tip, first), term.author)), term

    def _candidates(self, states: tuple[LogState, ...]) -> Iterator[Group]:
        for state in states:
            reason = Reason.ELECTION if state.leader else Reason.FIRST
            for author in NODES:
                yield self._claim(state, reason, author, author)

    def _claim(self, state: LogState, reason: Reason, author: Author, leader: Author) -> Group:
        epoch = Epoch(state.epoch + 1)
        timeline = state.timeline or author.node.encode() * 16
        body = Claim(leader, epoch, state.offset, reason)
        header = Header(VERSION, timeline, epoch, author, state.seq, 0, state.chain)
        return (Record(header, body, self._encoded(body)),)

    def _data(self, state: LogState, author: Author) -> Record:
        seq = Seq(state.seq + 1)
        body = Write((Change("kv", b"%d.%d" % (state.epoch, seq), b"", None, b"s"),))
        encoded = self._encoded(body)
        header = Header(VERSION, state.timeline, state.epoch, author, seq, 0, link(state.chain, encoded))
        return Record(header, body, encoded)

    # Invariants

    def _arrive(self, history: LogHistory, group: Group, term: LeaderTerm | None) -> LogHistory:
        log, states, claims, terms, elections = history
        base = len(log)
        log += group
        state, accepted = states[-1], 0
        for offset, record in enumerate(group, base):
            if record is None:
                state = acceptance.skip(state, Offset(offset))
            else:
                state, void = acceptance.judge(state, Offset(offset), record)
                accepted += void is None
                assert (void is None) is is_accepted(log, claims, offset), (
                    f"the rule differs from its definition: {void}, {_text(log)}"
                )
            states += (state,)
        assert accepted in (0, len(group)), f"half of a batch is accepted: {_text(log)}"
        if term is not None:
            gap = states[term.tip.offset + 1 : base + 1]
            undisturbed = all(state.seq == term.tip.seq for state in gap)
            assert bool(accepted) is undisturbed, f"a leader that reads the gap decides differently: {_text(log)}"
            assert accepted or base != term.tip.offset + 1, f"a batch at the next offset is void: {_text(log)}"
        if not accepted:
            return LogHistory(log, states, claims, terms, elections)
        assert group not in [old for it in terms for old in it.groups], f"a batch is accepted twice: {_text(log)}"
        record = group[0]
        if record is not None and isinstance(record.body, Claim):
            assert record.body.epoch == len(terms) + 1, f"two claims of one epoch are accepted: {_text(log)}"
            return LogHistory(log, states, [*claims, base], (*terms, LeaderTerm(record.body.leader, state)), elections)
        assert term is terms[-1], f"a record is accepted after the claim that ended its term: {_text(log)}"
        grown = LeaderTerm(term.author, state, (*term.groups, group))
        return LogHistory(log, states, claims, (*terms[:-1], grown), elections)

    def _replay(self, history: LogHistory) -> None:
        """Apply the definition to the whole log, and continue from each state as a restarted reader does."""
        log, states = history.log, history.states
        claims: list[int] = []
        for at, record in enumerate(log):
            accepted = is_accepted(log, claims, at)
            assert accepted is (states[at + 1].seq > states[at].seq), (
                f"the verdict on a record has changed: {_text(log)}"
            )
            if accepted and record is not None and isinstance(record.body, Claim):
                claims.append(at)
        for at in range(len(log)):
            state = decode_meta(Meta("c", "t", states[at]).encode()).state
            assert self._read(state, log[at:]) == states[-1], (
                f"reading on from record {at} gives a different state: {_text(log)}"
            )

    def _read(self, state: LogState, log: Log) -> LogState:
        for record in log:
            offset = Offset(state.offset + 1)
            if record is None:
                state = acceptance.skip(state, offset)
            else:
                payload = self._codec.encode(record.header, record.encoded_body)
                state, _ = acceptance.judge(state, offset, self._codec.decode(payload, state.timeline))
        return state


def _after(state: LogState, record: Record) -> LogState:
    return state._replace(seq=record.header.seq, chain=record.header.chain)


def _text(log: Log) -> str:
    return ", ".join(map(_describe, log))


def _describe(record: Record | None) -> str:
    if record is None:
        return "foreign bytes"
    header, body, _ = record
    if isinstance(body, Claim):
        return (
            f"{header.author.node} claims {body.epoch} for {body.leader.node} ({body.reason}, observed {body.observed})"
        )
    return f"{header.author.node} writes {header.epoch}.{header.seq}"
