"""How a leader learns what became of its last append, in the roles `resolving` and `checking`.

resolving: the outcome is unknown. It claims the next epoch in its own name, and reads the log up to that claim: what
it had sent precedes the claim, and counts, or is void. Until a claim, its own or another's, counts, it claims again,
with longer and longer pauses.

checking: it reads the log up to its last append. If no other node's claim was accepted until there, it is still leader.
"""

from __future__ import annotations

from replicator.intervals import MAX_RESOLVE_RETRY_MS, RESOLVE_RETRY_MS
from replicator.node.claim import send_claim
from replicator.node.context import NodeContext
from replicator.protocol.roles import Role
from replicator.records.types import Reason


class Resolution:
    """The claims of one stay in the role `resolving`. Each has to be read before the next one makes sense."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._pause_ms = RESOLVE_RETRY_MS

    async def step(self) -> None:
        """One claim, and the pause after it."""
        await send_claim(self._context, Reason.RESOLVE)
        await self._context.clock.sleep(self._pause_ms)
        self._pause_ms = min(2 * self._pause_ms, MAX_RESOLVE_RETRY_MS)


def check(context: NodeContext) -> None:
    """To be called when the log was read: ends the role `checking` once the last append was read."""
    roles, state = context.roles, context.replica.state
    if roles.role is Role.CHECKING and state.offset >= roles.check_until:
        roles.check_passed(state.seq)
