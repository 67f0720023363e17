"""How the current term began, and how many have begun: from the accepted claims that this process has read.

A process that has read no claim since it started does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from replicator.position import Author, Epoch, NodeId, Offset
from replicator.protocol.timeline import RESTORE
from replicator.records.types import Claim, Header, Reason


@dataclass(frozen=True, slots=True)
class Term:
    """Begun by an accepted claim."""

    epoch: Epoch
    leader: NodeId
    before: NodeId | None  # the leader before
    reason: Reason
    why: str  # the reason in words
    offset: Offset
    at_ms: int  # since 1970, by the clock of the node that wrote the claim

    def age_ms(self, now_us: int) -> float:
        return max(0.0, now_us / 1000 - self.at_ms)


_WHY: Mapping[Reason, Callable[[NodeId | None], str]] = {
    Reason.FIRST: lambda before: "the log was empty",
    Reason.ELECTION: lambda before: f"the heartbeat of {before} timed out",
    Reason.RESOLVE: lambda before: "the outcome of its last append was unknown",
    Reason.HANDOVER: lambda before: f"{before} transferred leadership",
    Reason.FORCE: lambda before: "forced by an operator",
}


class TermHistory:
    def __init__(self) -> None:
        self.last: Term | None = None
        self.counts = dict.fromkeys(Reason, 0)

    def note(self, leader: Author | None, offset: Offset, header: Header, claim: Claim) -> None:
        """A claim was accepted; `leader` was leader until then."""
        before = leader.node if leader else None
        why = "the cluster was restored" if before == RESTORE else _WHY[claim.reason](before)
        at_ms = header.timestamp_us // 1000
        self.last = Term(claim.epoch, claim.leader.node, before, claim.reason, why, offset, at_ms)
        self.counts[claim.reason] += 1
