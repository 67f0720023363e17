"""How the current term began, and how many have begun: from the claims that counted while this process read the log.

A process that has read no claim since it started knows nothing of the kind, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from replicator.position import Author, Epoch, NodeId, Offset
from replicator.records.types import Claim, Header, Reason


@dataclass(frozen=True, slots=True)
class Term:
    """An accepted claim."""

    epoch: Epoch
    leader: NodeId
    before: NodeId | None  # who led until then
    reason: Reason
    why: str  # the reason in words
    offset: Offset
    at_ms: int  # since 1970, by the clock of who wrote the claim

    def age_ms(self, now_us: int) -> float:
        return max(0.0, now_us / 1000 - self.at_ms)


_WHY: Mapping[Reason, Callable[[NodeId | None], str]] = {
    Reason.FIRST: lambda before: "the log was empty",
    Reason.ELECTION: lambda before: f"{before} had not been heard of",
    Reason.RESOLVE: lambda before: "it did not know what had become of its last append",
    Reason.HANDOVER: lambda before: f"{before} gave it the lead",
    Reason.FORCE: lambda before: "an operator's word",
}


class TermHistory:
    def __init__(self) -> None:
        self.last: Term | None = None
        self.counts = dict.fromkeys(Reason, 0)

    def note(self, leader: Author | None, offset: Offset, header: Header, claim: Claim) -> None:
        """A claim was accepted; `leader` led until then."""
        before = leader.node if leader else None
        why = _WHY[claim.reason](before)
        at_ms = header.timestamp_us // 1000
        self.last = Term(claim.epoch, claim.leader.node, before, claim.reason, why, offset, at_ms)
        self.counts[claim.reason] += 1
