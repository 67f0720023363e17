"""The lease: the time for which a leader's reads are certainly current.

    event                                        effect
    a record of the leader is accepted           The lease starts when the record was *sent*. A candidate receives the
                                                 record later, and waits longer than a lease from then (`timing`).
    a claim that this node sent is accepted      The same, from when the first copy of the claim was sent: any copy may
                                                 be the accepted one.
    a claim that another node sent is accepted   There is no lease until a record of this node is accepted.
    a forced claim is accepted                   The former leader may still hold a lease, and so may a replica that it
                                                 removed from the sync members. This node serves no reads and no writes
                                                 until both have expired on the slowest clock.

The lease belongs to the process, not to a term. The wait after a forced claim continues if a later claim, which
resolves an append with an unknown outcome, is accepted meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple

from replicator.protocol.timing import old_lease_ms
from replicator.records.types import Reason


class Lease(NamedTuple):
    from_ms: float | None = None  # when the record that started it was sent; None: this node has no lease
    serve_from_ms: float = 0.0  # before that, another node may hold a lease; never decreases

    def left_ms(self, now_ms: float, lease_ms: float) -> float:
        """Remaining time of the lease; 0: reads here may miss writes of another leader."""
        if self.from_ms is None or now_ms < self.serve_from_ms:
            return 0.0
        return max(0.0, self.from_ms + lease_ms - now_ms)

    def wait_ms(self, now_ms: float) -> float:
        """How long this node must wait before it serves or transfers leadership."""
        return max(0.0, self.serve_from_ms - now_ms)

    def renewed(self, sent_ms: float) -> Lease:
        """A record of this leader that was sent at `sent_ms` is accepted."""
        return self._replace(from_ms=sent_ms)

    def claimed(self, reason: Reason, sent_ms: float | None, read_ms: float, lease_ms: float) -> Lease:
        """A claim that names this node is accepted. `sent_ms`: when this node first sent it; None: another node did.

        `lease_ms`: the longest lease that any node may hold.
        """
        wait_ms = old_lease_ms(lease_ms) if reason is Reason.FORCE else 0.0
        return Lease(sent_ms, max(self.serve_from_ms, read_ms + wait_ms))


def follower_lease_until_ms(asked_ms: float, follower_lease_ms: float, leader_lease_left_ms: float) -> float:
    """When the lease of a replica ends that asked for the read index at `asked_ms`, and has applied it.

    It rests on the leader's answer, so it must not outlast the leader's lease. After a barrier that is no limit (inf).
    """
    return asked_ms + min(follower_lease_ms, leader_lease_left_ms)
