"""What the servers ask of a node. `node.node.Node` answers it; tests answer it with a fake."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from replicator.node.acks import Heard
from replicator.node.inflight import Done
from replicator.node.node import NodeStatus
from replicator.node.replica import RowListener
from replicator.position import NodeId, Offset
from replicator.records.types import Membership
from replicator.store.view import Transaction, View


class Backend(Protocol):
    row_listener: RowListener | None
    """Called with table and row, both when a write is submitted here and when a record is applied."""

    def view(self) -> View:
        """The store as it is now. Raises `Loading` or what stopped the node (`LogDamage`, `Diverged`, …)."""
        ...

    def read_barrier(self) -> Awaitable[None] | None:
        """What a read has to wait for before it takes its `view`; None: nothing.

        A leader whose lease has run out waits until it knows whether it still leads. Awaiting it raises `Stale` when
        that takes too long.
        """
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

    async def wait_acked(self, offset: Offset, replicas: int, timeout_ms: float) -> int:
        """How many other nodes have applied `offset`, once `replicas` have, or after `timeout_ms` (0: never)."""
        ...

    def status(self) -> NodeStatus: ...

    @property
    def membership(self) -> Membership: ...

    @property
    def heard(self) -> dict[NodeId, Heard]:
        """The latest ack of each follower; empty on followers."""
        ...
