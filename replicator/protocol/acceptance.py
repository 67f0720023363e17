"""Decides which records of the log are accepted. Every reader decides the same, because it uses the records alone.

A data record is accepted if its epoch, author, timeline, seq and chain follow from the records before it. If not, the
first rule of `DATA_RULES` that holds decides: the record is void, or the log is damaged.

A claim of the next epoch is void if the rule of its reason says so (`CLAIM_RULES`), or if its author had read other
records than this log holds. A claim of an earlier epoch is void, too; one of a later epoch, and one of another
timeline, is log damage. Any other claim is accepted, and the node that it names is the leader from then on. The author
of a claim cannot know the seq and the chain of the record before it: those in its header are of what it had read, up to
`observed`. Those of the claim follow from its position in the log.

No record is accepted after a claim that ends the log (`protocol.timeline`).

An entry that is not a record (another program wrote it) is void.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from replicator.errors import LogDamage, LogTrimmed
from replicator.position import Offset, Seq
from replicator.protocol.claims import CLAIM_RULES
from replicator.protocol.log_state import LogState, Void
from replicator.protocol.timeline import continued_as, continues_a_restore
from replicator.records.chain import link
from replicator.records.types import Claim, Header, Record


class Damage(StrEnum):
    """A correct leader never writes such a record: the log was corrupted, truncated or replaced."""

    EPOCH = "an epoch that has not begun"
    TIMELINE = "another timeline"
    GAP = "a gap in seq"
    CHAIN = "a broken chain"


class DataRule(NamedTuple):
    when: str
    holds: Callable[[LogState, Header, bytes], bool]  # state, header, expected chain
    verdict: Void | Damage


DATA_RULES: Sequence[DataRule] = (
    DataRule("its epoch is above the current epoch", lambda state, it, _: it.epoch > state.epoch, Damage.EPOCH),
    DataRule("its epoch is not the current epoch", lambda state, it, _: it.epoch != state.epoch, Void.OTHER_EPOCH),
    DataRule("its author is not the leader", lambda state, it, _: it.author != state.leader, Void.NOT_THE_LEADER),
    DataRule("its seq is not above the last seq", lambda state, it, _: it.seq <= state.seq, Void.REPEATED),
    DataRule("its timeline is not the log's", lambda state, it, _: it.timeline != state.timeline, Damage.TIMELINE),
    DataRule("its seq is not the next seq", lambda state, it, _: it.seq != state.seq + 1, Damage.GAP),
    DataRule("its chain does not match", lambda _, it, chain: it.chain != chain, Damage.CHAIN),
)
"""The first rule that holds decides about a data record. If no rule holds, the record is accepted."""


def judge(state: LogState, offset: Offset, record: Record) -> tuple[LogState, Void | None]:
    """The state after the record at `offset`, and why the record is void (None: accepted).

    Raises `LogDamage`; and `LogTrimmed` for an empty store, if the log continues a restored one.
    """
    header, body, encoded_body = record
    if type(body) is Claim:
        return _judge_claim(state, offset, record, body)
    chain = link(state.chain, encoded_body)
    if _is_next(state, header, chain):  # the common case, without the rules one by one
        return _after(state, offset, record, chain), None
    verdict = next(rule.verdict for rule in DATA_RULES if rule.holds(state, header, chain))
    if isinstance(verdict, Damage):
        raise _damage(verdict, state, offset, header, chain)
    return skip(state, offset), verdict


def judge_sent(state: LogState, offset: Offset, record: Record) -> LogState | None:
    """The state after a record that the leader sent, committed at `offset`.

    None: it is not the next accepted record, or it is a claim; the caller has to read the log.
    """
    header, body, encoded_body = record
    chain = link(state.chain, encoded_body)
    if type(body) is Claim or offset <= state.offset or not _is_next(state, header, chain):
        return None
    return _after(state, offset, record, chain)


def skip(state: LogState, offset: Offset) -> LogState:
    """The state after a void record."""
    return state._replace(offset=offset)


def _is_next(state: LogState, header: Header, chain: bytes) -> bool:
    """Whether a data record is accepted. `chain`: the expected chain."""
    return (
        header.chain == chain
        and header.seq == state.seq + 1
        and header.epoch == state.epoch
        and header.author == state.leader
        and header.timeline == state.timeline
    )


def _after(state: LogState, offset: Offset, record: Record, chain: bytes) -> LogState:
    """The state after an accepted data record."""
    return LogState(state.timeline, state.epoch, state.leader, record.last_seq, chain, offset, offset)


def _judge_claim(state: LogState, offset: Offset, record: Record, claim: Claim) -> tuple[LogState, Void | None]:
    if claim.epoch <= state.epoch:
        return skip(state, offset), Void.OTHER_EPOCH
    if continued_as(state) is not None:
        return skip(state, offset), Void.ENDED
    if continues_a_restore(state, claim):
        raise LogTrimmed(
            f"the log begins with epoch {claim.epoch}, because its cluster was restored from a snapshot, and this "
            "store is empty: start from a snapshot of this cluster"
        )
    if claim.epoch > state.epoch + 1:
        raise _damage(Damage.EPOCH, state, offset, record.header, state.chain)
    void = CLAIM_RULES[claim.reason](state, record.header, claim)
    if not void and not _saw_this_log(state, record.header, claim):
        void = Void.OTHER_PAST
    if void:
        return skip(state, offset), void
    if state.timeline and record.header.timeline != state.timeline:
        raise _damage(Damage.TIMELINE, state, offset, record.header, state.chain)
    chain = link(state.chain, record.encoded_body)
    seq = Seq(state.seq + 1)
    return LogState(record.header.timeline, claim.epoch, claim.leader, seq, chain, offset, offset), None


def _saw_this_log(state: LogState, header: Header, claim: Claim) -> bool:
    """Whether the author of a claim had read the records of this log, if it had read as far as they go."""
    had_read_less = claim.observed < state.leader_offset
    return had_read_less or (header.seq, header.chain) == (state.seq, state.chain)


def _damage(damage: Damage, state: LogState, offset: Offset, header: Header, chain: bytes) -> LogDamage:
    found, expected = {
        Damage.EPOCH: (header.epoch, f"{state.epoch}, or a claim of {state.epoch + 1}"),
        Damage.TIMELINE: (header.timeline.hex(), state.timeline.hex()),
        Damage.GAP: (header.seq, state.seq + 1),
        Damage.CHAIN: (header.chain.hex(), chain.hex()),
    }[damage]
    return LogDamage(
        f"the record at offset {offset} by {header.author} has {damage}: found {found}, expected {expected}. The log "
        "was corrupted, truncated or replaced. Restore the topic, or restore the cluster from a snapshot"
    )
