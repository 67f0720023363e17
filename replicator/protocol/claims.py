"""Decides which claims of the next epoch are accepted: one rule for each reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from replicator.protocol.log_state import LogState, Void
from replicator.records.types import Claim, Header, Reason


def _by_candidate(state: LogState, header: Header, claim: Claim) -> Void | None:
    """if its author is the node that it names, and the leader has written nothing after `observed`"""
    if header.author != claim.leader:
        return Void.NOT_THE_LEADER
    return Void.OUTDATED if state.leader_offset > claim.observed else None


def _by_leader(state: LogState, header: Header, claim: Claim) -> Void | None:
    """if its author is the current leader"""
    return None if header.author == state.leader else Void.NOT_THE_LEADER


def _always(state: LogState, header: Header, claim: Claim) -> Void | None:
    """always"""
    return None


CLAIM_RULES: Mapping[Reason, Callable[[LogState, Header, Claim], Void | None]] = {
    Reason.FIRST: _by_candidate,
    Reason.ELECTION: _by_candidate,
    Reason.RESOLVE: _by_leader,
    Reason.HANDOVER: _by_leader,
    Reason.FORCE: _always,
}
"""Why a claim of the next epoch is void (None: it is accepted). The docstrings are the table in docs/leadership.md."""

CLAIMS_OVER_UNREAD = frozenset({Reason.RESOLVE, Reason.HANDOVER, Reason.FORCE})
"""Reasons of claims that may be accepted although their author had not read all records before them."""
