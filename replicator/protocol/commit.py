"""The commit rule: which records of the log count. Every reader decides the same, from the records alone (design, 3).

    data record       epoch of another term                  void: other epoch
                      author is not the leader of this term  void: not the leader
                      seq already used                       void: repeated
                      seq skips, chain or timeline differs   log damage
                      otherwise                              accepted

    claim             epoch is not the current + 1           void: other epoch
                      the rule of its reason (`CLAIM_RULES`) void: outrun, or not the leader
                      another timeline                       log damage
                      otherwise                              accepted; its node leads from here on

What is no record at all (a stranger's bytes) is void. A claim cannot know seq and chain of the record before it, so
it takes them from where it stands: those in its header are not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from replicator.errors import LogDamage
from replicator.position import BEFORE_LOG, Author, Epoch, Offset, Seq
from replicator.records.codec import GENESIS, link
from replicator.records.types import Claim, Header, Reason, Record


class LogState(NamedTuple):
    """All that the rule needs to know of the log up to `offset`."""

    timeline: bytes = b""  # 16 bytes once a claim has been accepted
    epoch: Epoch = Epoch(0)
    leader: Author | None = None
    seq: Seq = Seq(0)
    chain: bytes = GENESIS
    offset: Offset = BEFORE_LOG  # of the last record read, accepted or void
    leader_offset: Offset = BEFORE_LOG  # of the current leader's last accepted record, its claim included


class Void(StrEnum):
    OTHER_EPOCH = "of another epoch"
    NOT_THE_LEADER = "not by the leader"
    REPEATED = "its seq was used before"
    OUTRUN = "the leader wrote after what the candidate had observed"


def _unchallenged(state: LogState, header: Header, claim: Claim) -> Void | None:
    if header.author != claim.leader:
        return Void.NOT_THE_LEADER
    return Void.OUTRUN if state.leader_offset > claim.observed else None


def _by_the_leader(state: LogState, header: Header, claim: Claim) -> Void | None:
    return None if header.author == state.leader else Void.NOT_THE_LEADER


def _always(state: LogState, header: Header, claim: Claim) -> Void | None:
    return None


CLAIM_RULES: Mapping[Reason, Callable[[LogState, Header, Claim], Void | None]] = {
    Reason.FIRST: _unchallenged,
    Reason.ELECTION: _unchallenged,
    Reason.DOUBT: _by_the_leader,
    Reason.HANDOVER: _by_the_leader,
    Reason.FORCE: _always,
}
"""What makes a claim of the next epoch void; None: nothing."""


def judge(state: LogState, offset: Offset, record: Record) -> tuple[LogState, Void | None]:
    """The state after the record at `offset`, and why it is void (None: it is accepted). Raises `LogDamage`."""
    header, body, encoded_body = record
    if type(body) is Claim:
        return _judge_claim(state, offset, record, body)
    if header.epoch != state.epoch:
        return skip(state, offset), Void.OTHER_EPOCH
    if header.author != state.leader:
        return skip(state, offset), Void.NOT_THE_LEADER
    if header.seq <= state.seq:
        return skip(state, offset), Void.REPEATED
    chain = link(state.chain, encoded_body)
    if header.seq != state.seq + 1 or header.chain != chain or header.timeline != state.timeline:
        raise LogDamage(_damage(state, offset, header, chain))
    return LogState(state.timeline, state.epoch, state.leader, header.seq, chain, offset, offset), None


def skip(state: LogState, offset: Offset) -> LogState:
    """The state after a void record."""
    return state._replace(offset=offset)


def _judge_claim(state: LogState, offset: Offset, record: Record, claim: Claim) -> tuple[LogState, Void | None]:
    if claim.epoch != state.epoch + 1:
        return skip(state, offset), Void.OTHER_EPOCH
    void = CLAIM_RULES[claim.reason](state, record.header, claim)
    if void:
        return skip(state, offset), void
    if state.timeline and record.header.timeline != state.timeline:
        raise LogDamage(f"the claim at offset {offset} is of timeline {record.header.timeline.hex()}, {_REMEDY}")
    chain = link(state.chain, record.encoded_body)
    seq = Seq(state.seq + 1)
    return LogState(record.header.timeline, claim.epoch, claim.leader, seq, chain, offset, offset), None


_REMEDY = "which does not follow from what this node has read: compare the nodes' logs, restore the topic or a snapshot"


def _damage(state: LogState, offset: Offset, header: Header, chain: bytes) -> str:
    if header.timeline != state.timeline:
        what = f"timeline {header.timeline.hex()} instead of {state.timeline.hex()}"
    elif header.seq != state.seq + 1:
        what = f"seq {header.seq} instead of {state.seq + 1}"
    else:
        what = f"chain {header.chain.hex()} instead of {chain.hex()}"
    return f"the record at offset {offset} by {header.author} has {what}, {_REMEDY}"
