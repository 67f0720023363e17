"""The interface of a node to its servers, implemented by `node.node.Node` and by fakes in tests."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from replicator.node.backlog import RecordSink, StreamRequest
from replicator.node.client_writes import Executed
from replicator.node.committed_batch import CommittedBatch
from replicator.node.node_link import CommittedOffset
from replicator.node.recent_records import RecentRecords
from replicator.node.replica import ChangeListener, RowListener
from replicator.node.replica_progress import ReplicaReport
from replicator.node.status import NodeStatus
from replicator.node.writes import Done
from replicator.position import Author, Epoch, Offset, Token
from replicator.protocol.levels import Level
from replicator.records.types import Membership, Timing
from replicator.store.view import Transaction, View

T = TypeVar("T")


class BackendReads(Protocol):
    """Implemented by `node.reads.NodeReads`."""

    def view(self, level: Level | None) -> View | Future[View]:
        """As `node.reads.Reads.view`."""
        ...

    async def read(self, level: Level | None, answer: Callable[[View], T]) -> T:
        """The result of `answer` for a view that meets the level. Raises what `view` and `answer` do, and `Stale`."""
        ...

    async def read_in_slices(self, level: Level | None, answer: Callable[[View], Awaitable[T]]) -> T:
        """As `read`, for an `answer` that takes long and lets other code run: it gets a snapshot."""
        ...


class Backend(Protocol):
    row_listener: RowListener | None
    """Called with table and row, both when a write is submitted here and when a record is applied."""

    change_listener: ChangeListener | None
    """Called with bodies that were applied, in order, and the time in their headers (us)."""

    recent: RecentRecords

    @property
    def reads(self) -> BackendReads: ...

    def store(self) -> View:
        """The current state of the store. Raises `Loading`, or what stopped the node (`LogDamage`, `Diverged`, …)."""
        ...

    def count_expiring(self) -> int:
        """The number of values in the store that have an expiry, of all tables."""
        ...

    def token(self, written: Offset) -> Token:
        """Covers everything that a client can have read here and has written up to that offset. Raises as `store`."""
        ...

    def now_ms(self) -> int:
        """The node's wall clock."""
        ...

    def begin(self) -> Transaction:
        """A transaction over the store and all writes in flight.

        Raises `NotLeader`, `NoReplicas`, `Busy`, `Loading`; nothing was written then.
        """
        ...

    def are_changing(self, table: str, row: bytes) -> bool:
        """Whether a write in flight here changes the row: `begin` shows its effect, and reads may not show it yet."""
        ...

    @property
    def logs_commands(self) -> bool:
        """Whether `submit` is to be told how a transaction came about, also if the client does not ask for it."""
        ...

    def submit(self, transaction: Transaction, done: Done, executed: Executed | None = None) -> None:
        """Append the changes as one record, or the command that has made them.

        Without changes, `done` is called once all that was read is committed.

        `done` is called from the event loop, in the order of submission, possibly before `submit` returns. Raises
        `Definite` (too large, no longer the leader) without calling `done`.
        """
        ...

    async def wait_acked(self, offset: Offset, replicas: int, timeout_ms: float) -> int:
        """How many other nodes have applied `offset`, once `replicas` have or after `timeout_ms` (0: no timeout)."""
        ...

    async def committed_offset(self, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        """For other nodes: the leader's committed offset, as `node.leader_index` says. Raises as it does."""
        ...

    def start_stream(self, request: StreamRequest, sink: RecordSink) -> Sequence[CommittedBatch]:
        """Begin to send committed records to another node, as `ReplicationBacklog.start_stream`. Raises as it does."""
        ...

    def end_stream(self, sink: RecordSink) -> None: ...

    def record_acks(self, sink: RecordSink, payloads: Sequence[bytes]) -> None:
        """Acks have arrived over this stream."""
        ...

    def set_downstream(self, sink: RecordSink, downstream: Mapping[Author, int]) -> None:
        """As `ReplicationBacklog.set_downstream`."""
        ...

    def status(self) -> NodeStatus: ...

    @property
    def leads(self) -> bool: ...

    @property
    def membership(self) -> Membership: ...

    @property
    def timing(self) -> Timing:
        """The timing that the node follows now."""
        ...

    @property
    def replicas(self) -> tuple[ReplicaReport, ...]:
        """At the leader, also while it resolves an append: all other members; empty on followers."""
        ...
