"""Whether this process counts as its node, or another process has replaced it (`protocol.registration`)."""

from __future__ import annotations

from datetime import UTC, datetime

from replicator.errors import Replaced
from replicator.position import Author
from replicator.protocol.registration import is_replaced, registered
from replicator.records.types import Header, Membership


class Registration:
    def __init__(self, own: Author) -> None:
        self._own = own
        self._replaces: int | None = None  # what it first asked to replace; None: it has not asked yet
        self.refusal = ""  # why the leader has not registered this process

    def ask(self, membership: Membership) -> int:
        """This process asks to be registered, having read this membership. Returns the incarnation that it replaces."""
        replaces = registered(membership, self._own.node)
        if self._replaces is None:
            self._replaces = replaces
        return replaces

    def replaced_by(self, header: Header, membership: Membership) -> Replaced | None:
        """Why this process has to stop, having read the record of this membership; None: it need not."""
        if self._replaces is None or not is_replaced(membership, self._own, self._replaces):
            return None
        node, member = self._own.node, membership.get(self._own.node)
        since = datetime.fromtimestamp(header.timestamp_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return Replaced(
            f"another process runs as {node}{f', at {member.resp}' if member else ''}, since {since}. Stop this one, "
            f"or give it another --id and --dir. To run {node} here, stop the other process and restart this one"
        )
