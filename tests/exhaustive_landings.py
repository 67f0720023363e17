"""Whatever two nodes may have sent, landing in the log in every order.

A landing is a record, or a batch of two, of what can be under way: the next batch of every leader there ever was,
deposed or not, as it would number it; every batch once more that counted before; claims of either node for each reason,
in an election with each part of the log that the candidate can have read; a stranger's bytes.

Judged by the rule, and by `counts`, which says the same as a definition over the whole log.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol import acceptance as commit
from replicator.protocol.log_state import LogState
from replicator.records.codec import RecordCodec, link
from replicator.records.types import VERSION, Change, Claim, Header, Reason, Record, Write
from replicator.store.meta import Meta, decode_meta

NODES = Author(NodeId("A"), 1), Author(NodeId("B"), 2)
STRANGER = None

Group = tuple[Record | None, ...]
Log = tuple[Record | None, ...]


def counts(log: Log, claims: list[int], at: int) -> bool:
    """Whether the record at `at` counts. `claims`: where the claims before it stand that count."""
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
            return header.author == body.leader and not any(p in claims or counts(log, claims, p) for p in unread)


def _leader(log: Log, claims: list[int]) -> Author | None:
    claim = log[claims[-1]] if claims else None
    return claim.body.leader if claim and isinstance(claim.body, Claim) else None


class Term(NamedTuple):
    """What a leader has got accepted."""

    author: Author
    tip: LogState  # behind its last record that counts
    groups: tuple[Group, ...] = ()


class History(NamedTuple):
    log: Log
    states: tuple[LogState, ...]  # of a reader of 0, 1, 2, … records
    claims: list[int]  # where those stand that count
    terms: tuple[Term, ...]  # of epoch 1, 2, …
    elections: tuple[Group, ...]  # claims of candidates, one for each part of the log that they had read


class Landings:
    def __init__(self) -> None:
        self.histories = 0
        self._codec = RecordCodec()
        self._encoded = cache(self._codec.encode_body)

    def play(self, landings: int, *, begun: bool = False) -> None:
        """All histories of so many landings, in an empty log or one that begins with A's claim.

        Each is judged record by record. What there is before the last two landings is read again, too, which takes
        longer. Raises `AssertionError`.
        """
        history = History((), (LogState(),), [], (), ())
        if begun:
            history = self._land(history, self._claim(LogState(), Reason.FIRST, NODES[0], NODES[0]), None)
        self._go_on(history, landings)

    def _go_on(self, history: History, landings: int) -> None:
        read = history.states[len(history.elections) // len(NODES) :]
        history = history._replace(elections=history.elections + tuple(self._candidates(read)))
        for group, term in self._choices(history):
            longer = self._land(history, group, term)
            if landings == 1:
                self.histories += 1
                continue
            if landings > 2:
                self._read_again(longer)
            self._go_on(longer, landings - 1)

    # What is under way

    def _choices(self, history: History) -> Iterator[tuple[Group, Term | None]]:
        """And whose next group it is."""
        here = history.states[-1]
        yield (STRANGER,), None
        for election in history.elections:
            yield election, None
        for author in NODES:
            yield self._claim(here, Reason.FORCE, author, author), None
            if author != here.leader:  # no node of ours does it
                yield self._claim(here, Reason.RESOLVE, author, author), None
        for term in history.terms:
            other = NODES[term.author == NODES[0]]
            yield self._claim(term.tip, Reason.RESOLVE, term.author, term.author), None
            yield self._claim(term.tip, Reason.HANDOVER, term.author, other), None
            for group in term.groups:
                yield group, None
            first = self._data(term.tip, term.author)
            yield (first,), term
            yield (first, self._data(_behind(term.tip, first), term.author)), term

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

    # What must hold

    def _land(self, history: History, group: Group, term: Term | None) -> History:
        log, states, claims, terms, elections = history
        base = len(log)
        log += group
        state, accepted = states[-1], 0
        for offset, record in enumerate(group, base):
            if record is None:
                state = commit.skip(state, Offset(offset))
            else:
                state, void = commit.judge(state, Offset(offset), record)
                accepted += void is None
                assert (void is None) is counts(log, claims, offset), (
                    f"the rule differs from its words: {void}, {_told(log)}"
                )
            states += (state,)
        assert accepted in (0, len(group)), f"half a batch counts: {_told(log)}"
        if term is not None:
            gap = states[term.tip.offset + 1 : base + 1]
            undisturbed = all(state.seq == term.tip.seq for state in gap)
            assert bool(accepted) is undisturbed, f"a leader that reads the gap decides otherwise: {_told(log)}"
            assert accepted or base != term.tip.offset + 1, f"a leader got the next offset, and is void: {_told(log)}"
        if not accepted:
            return History(log, states, claims, terms, elections)
        assert group not in [old for it in terms for old in it.groups], f"a batch counts twice: {_told(log)}"
        record = group[0]
        if record is not None and isinstance(record.body, Claim):
            assert record.body.epoch == len(terms) + 1, f"two claims of one epoch count: {_told(log)}"
            return History(log, states, [*claims, base], (*terms, Term(record.body.leader, state)), elections)
        assert term is terms[-1], f"a record counts behind the claim that ended its term: {_told(log)}"
        grown = Term(term.author, state, (*term.groups, group))
        return History(log, states, claims, (*terms[:-1], grown), elections)

    def _read_again(self, history: History) -> None:
        """The definition over the log as it is now; and a reader that begins with what a store holds."""
        log, states = history.log, history.states
        claims: list[int] = []
        for at, record in enumerate(log):
            counted = counts(log, claims, at)
            assert counted is (states[at + 1].seq > states[at].seq), f"a record has changed its fate: {_told(log)}"
            if counted and record is not None and isinstance(record.body, Claim):
                claims.append(at)
        for at in range(len(log)):
            state = decode_meta(Meta("c", "t", states[at]).encode()).state
            assert self._read(state, log[at:]) == states[-1], f"read on from record {at}, it is another: {_told(log)}"

    def _read(self, state: LogState, log: Log) -> LogState:
        for record in log:
            offset = Offset(state.offset + 1)
            if record is None:
                state = commit.skip(state, offset)
            else:
                payload = self._codec.encode(record.header, record.encoded_body)
                state, _ = commit.judge(state, offset, self._codec.decode(payload, state.timeline))
        return state


def _behind(state: LogState, record: Record) -> LogState:
    return state._replace(seq=record.header.seq, chain=record.header.chain)


def _told(log: Log) -> str:
    return ", ".join(map(_words, log))


def _words(record: Record | None) -> str:
    if record is None:
        return "junk"
    header, body, _ = record
    if isinstance(body, Claim):
        return (
            f"{header.author.node} claims {body.epoch} for {body.leader.node} ({body.reason}, read to {body.observed})"
        )
    return f"{header.author.node} writes {header.epoch}.{header.seq}"
