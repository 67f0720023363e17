"""The commit rule: which records of the log count. Every reader decides the same, from the records alone (design, 3).

A data record is accepted if epoch, author, timeline, seq and chain are those that the records before it make due. If
not, the first line of `DATA_RULES` that holds says what it is: void, or damage of the log.

A claim is void if its epoch is not the one after the current, or by the rule of its reason (`CLAIM_RULES`); of another
timeline it is damage. Otherwise it is accepted, and its node leads from here on. A claim cannot know seq and chain of
the record before it, so it takes them from where it stands: those in its header are not judged.

What is no record at all (a stranger's bytes) is void.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from replicator.errors import LogDamage
from replicator.position import Offset, Seq
from replicator.protocol.claims import CLAIM_RULES
from replicator.protocol.log_state import LogState, Void
from replicator.records.codec import link
from replicator.records.types import Claim, Header, Record


class Damage(StrEnum):
    """What a leader that follows the rule never writes: the log was changed, lost a part, or is another one."""

    TIMELINE = "another timeline"
    HOLE = "a hole in seq"
    CHAIN = "a broken chain"


class DataRule(NamedTuple):
    when: str
    holds: Callable[[LogState, Header, bytes], bool]  # of the state, the record's header, and the chain that is due
    verdict: Void | Damage


DATA_RULES: Sequence[DataRule] = (
    DataRule("its epoch is not the current one", lambda state, it, _: it.epoch != state.epoch, Void.OTHER_EPOCH),
    DataRule("its author is not the leader", lambda state, it, _: it.author != state.leader, Void.NOT_THE_LEADER),
    DataRule("its seq is not above the last one", lambda state, it, _: it.seq <= state.seq, Void.REPEATED),
    DataRule("its timeline is not the log's", lambda state, it, _: it.timeline != state.timeline, Damage.TIMELINE),
    DataRule("its seq is not the next one", lambda state, it, _: it.seq != state.seq + 1, Damage.HOLE),
    DataRule("its chain does not continue the last one", lambda _, it, chain: it.chain != chain, Damage.CHAIN),
)
"""What a data record that is not accepted is: the first line that holds. If none does, it is accepted."""


def judge(state: LogState, offset: Offset, record: Record) -> tuple[LogState, Void | None]:
    """The state after the record at `offset`, and why it is void (None: it is accepted). Raises `LogDamage`."""
    header, body, encoded_body = record
    if type(body) is Claim:
        return _judge_claim(state, offset, record, body)
    chain = link(state.chain, encoded_body)
    if (  # as most are
        header.chain == chain
        and header.seq == state.seq + 1
        and header.epoch == state.epoch
        and header.author == state.leader
        and header.timeline == state.timeline
    ):
        return LogState(state.timeline, state.epoch, state.leader, header.seq, chain, offset, offset), None
    verdict = next(rule.verdict for rule in DATA_RULES if rule.holds(state, header, chain))
    if isinstance(verdict, Damage):
        raise _damage(verdict, state, offset, header, chain)
    return skip(state, offset), verdict


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
        raise _damage(Damage.TIMELINE, state, offset, record.header, state.chain)
    chain = link(state.chain, record.encoded_body)
    seq = Seq(state.seq + 1)
    return LogState(record.header.timeline, claim.epoch, claim.leader, seq, chain, offset, offset), None


def _damage(damage: Damage, state: LogState, offset: Offset, header: Header, chain: bytes) -> LogDamage:
    found, due = {
        Damage.TIMELINE: (header.timeline.hex(), state.timeline.hex()),
        Damage.HOLE: (header.seq, state.seq + 1),
        Damage.CHAIN: (header.chain.hex(), chain.hex()),
    }[damage]
    return LogDamage(
        f"the record at offset {offset} by {header.author} shows {damage}: {found} instead of {due}, which does not "
        "follow from what this node has read. Compare the nodes' logs, restore the topic or a snapshot"
    )
