"""What the servers ask of a node. `node.node.Node` answers it; tests answer it with a fake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from replicator.errors import ReplicatorError
from replicator.position import Offset
from replicator.store.view import Transaction, View

Done = Callable[[ReplicatorError | None, Offset], None]
"""Called exactly once when a write has ended: None = OK at that offset; Definite = REJECTED; Indefinite = UNKNOWN."""


class Backend(Protocol):
    def view(self) -> View:
        """The store as it is now. Raises `Loading` or what stopped the node (`LogDamage`, `Diverged`, …)."""
        ...

    def now_ms(self) -> int | None:
        """The leader's wall clock, by which values count as expired; None on a follower, which waits for the record."""
        ...

    def begin(self) -> Transaction:
        """A transaction over the store and all writes in flight.

        Raises `NotLeader`, `NoReplicas`, `Busy`, `Loading`: all before anything happened.
        """
        ...

    def submit(self, transaction: Transaction, done: Done) -> None:
        """Append the changes as one record. Without changes, `done` is called once all that it has read is committed.

        `done` is called from the event loop, in the order of submission, possibly before `submit` returns. Raises
        `Definite` (too large, not the leader any more) without calling `done`.
        """
        ...
