"""The last offset that this node, as leader, knows to be committed. The leader keeps it, and other nodes ask for it.

known      no append is in flight: all that any node can show, and all that was answered, is at or below the offset
unknown    an append is in flight or has an unknown outcome (a replica may show it already), or this node does not
           lead
"""

from __future__ import annotations

import asyncio

from replicator.position import Offset


class CommitPoint:
    def __init__(self) -> None:
        self._offset: Offset | None = None  # None: unknown
        self._next: asyncio.Future[Offset] | None = None  # of those that wait for it

    def set_unknown(self) -> None:
        """An append is about to be sent, or this node ceases to lead."""
        self._offset = None

    def set_known(self, offset: Offset) -> None:
        """The log is committed up to `offset`, and nothing that this leader has sent can follow it."""
        self._offset = offset
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.set_result(offset)

    def get(self) -> asyncio.Future[Offset]:
        """Ends once it is known, without waiting for appends that are sent after this call.

        Callers share the future, and must not cancel it.
        """
        if self._offset is None and self._next is not None:
            return self._next
        future: asyncio.Future[Offset] = asyncio.get_running_loop().create_future()
        if self._offset is None:
            self._next = future
        else:
            future.set_result(self._offset)
        return future
