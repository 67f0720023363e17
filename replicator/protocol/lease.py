"""The lease: how long a leader's reads are sure to see all that was written anywhere.

    an own record was accepted    it runs from when the record was *sent*: whoever stands against the leader has
                                  received it later, and waits longer than a lease from then (`timing`)
    an own claim was accepted     the same, from when its first copy was sent: any copy may be the one that counts
    another's claim (handover)    none, until a record of this node's own is committed
    a forced claim                the leader before may hold a lease still: serve neither reads nor writes until it has
                                  run out, even by the slowest clock

It belongs to the process, not to one term of it: a wait that a forced claim began is not over because another claim,
in doubt of an append, was accepted meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple

from replicator.protocol.timing import MAX_DRIFT
from replicator.records.types import Reason


class Lease(NamedTuple):
    from_ms: float | None = None  # when the record that gives it was sent; None: there is none
    serve_from_ms: float = 0.0

    def left_ms(self, now_ms: float, lease_ms: float) -> float:
        """0: reads here may miss what others wrote."""
        if self.from_ms is None or now_ms < self.serve_from_ms:
            return 0.0
        return max(0.0, self.from_ms + lease_ms - now_ms)

    def wait_ms(self, now_ms: float) -> float:
        """How long this node must not yet serve, nor hand over."""
        return max(0.0, self.serve_from_ms - now_ms)

    def renewed(self, sent_ms: float) -> Lease:
        """A record of the leader's own, sent then, is accepted."""
        return self._replace(from_ms=sent_ms)

    def claimed(self, reason: Reason, sent_ms: float | None, read_ms: float, lease_ms: float) -> Lease:
        """A claim that names this node is accepted; the node first sent it then (None: another did), read it now."""
        wait_ms = lease_ms * (1 + MAX_DRIFT) if reason is Reason.FORCE else 0.0
        return Lease(sent_ms, max(self.serve_from_ms, read_ms + wait_ms))
