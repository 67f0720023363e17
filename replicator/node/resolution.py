"""Resolves the outcome of a leader's last append, in the roles `resolving` and `checking`.

resolving: the outcome is unknown. The node claims the next epoch in its own name, and reads the log up to that claim.
A record of the append is accepted if it precedes the claim, and void otherwise. The node repeats the claim until a
claim is accepted, its own or another node's, with longer and longer pauses.

checking: the node reads the log up to its last append. If no other node's claim was accepted before it, the node is
still leader.
"""

from __future__ import annotations

from replicator.intervals import MAX_RESOLVE_RETRY_MS, RESOLVE_RETRY_MS
from replicator.node.claim import send_claim
from replicator.node.context import NodeContext
from replicator.protocol.roles import Role
from replicator.protocol.verification import verify_appended
from replicator.records.types import Reason


class Resolution:
    """The claims of one stay in the role `resolving`."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._pause_ms = RESOLVE_RETRY_MS

    async def step(self) -> None:
        """Claim once, then pause."""
        await send_claim(self._context, Reason.RESOLVE)
        await self._context.clock.sleep(self._pause_ms)
        self._pause_ms = min(2 * self._pause_ms, MAX_RESOLVE_RETRY_MS)


def check(context: NodeContext) -> None:
    """Call it after each read of the log: it ends the role `checking` once the last append was read.

    Raises `LogDamage` if the log does not hold it.
    """
    roles, state = context.roles, context.replica.state
    if roles.role is Role.CHECKING and state.offset >= roles.check_until:
        verify_appended(state, roles.check_until)
        roles.check_passed(state.seq)
