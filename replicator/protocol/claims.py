"""Which claims count: the rule of each reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from replicator.protocol.log_state import LogState, Void
from replicator.records.types import Claim, Header, Reason


def _unchallenged(state: LogState, header: Header, claim: Claim) -> Void | None:
    """if the node that wants to lead wrote it, and no record of the leader stands after `observed`"""
    if header.author != claim.leader:
        return Void.NOT_THE_LEADER
    return Void.OUTRUN if state.leader_offset > claim.observed else None


def _by_the_leader(state: LogState, header: Header, claim: Claim) -> Void | None:
    """if the current leader wrote it"""
    return None if header.author == state.leader else Void.NOT_THE_LEADER


def _always(state: LogState, header: Header, claim: Claim) -> Void | None:
    """always"""
    return None


CLAIM_RULES: Mapping[Reason, Callable[[LogState, Header, Claim], Void | None]] = {
    Reason.FIRST: _unchallenged,
    Reason.ELECTION: _unchallenged,
    Reason.RESOLVE: _by_the_leader,
    Reason.HANDOVER: _by_the_leader,
    Reason.FORCE: _always,
}
"""What makes a claim of the next epoch void; None: nothing. The functions' docstrings say when it counts."""
