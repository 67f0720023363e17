"""How a leader learns what became of its last append, in the roles `resolving` and `checking`.

resolving: the outcome is unknown. It claims the next epoch in its own name, and reads the log up to that claim: what
it had sent precedes the claim, and counts, or is void. It claims again until a claim, its own or another's, counts.

checking: it reads the log up to its last append. If no other node's claim was accepted until there, it is still leader.
"""

from __future__ import annotations

from replicator.intervals import RESOLVE_RETRY_MS
from replicator.node.claim import send_claim
from replicator.node.context import NodeContext
from replicator.protocol.roles import Role
from replicator.records.types import Reason


async def resolve(context: NodeContext) -> None:
    """One claim in the role `resolving`."""
    await send_claim(context, Reason.RESOLVE)
    await context.clock.sleep(RESOLVE_RETRY_MS)


def check(context: NodeContext) -> None:
    """To be called when the log was read: ends the role `checking` once the last append was read."""
    roles, state = context.roles, context.replica.state
    if roles.role is Role.CHECKING and state.offset >= roles.check_until:
        roles.check_passed(state.seq)
