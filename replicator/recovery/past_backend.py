"""A store that does not change, as the servers see it: the data of a cluster as of one offset, to be read only."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn, TypeVar

from replicator.errors import NotLeader, Stale
from replicator.node.backlog import RecordSink, StreamRequest
from replicator.node.client_writes import Executed
from replicator.node.committed_batch import CommittedBatch
from replicator.node.node_link import CommittedOffset
from replicator.node.recent_records import RecentRecords
from replicator.node.replica import ChangeListener, RowListener
from replicator.node.replica_progress import ReplicaReport
from replicator.node.status import NodeStatus
from replicator.node.writes import Done
from replicator.position import Author, Epoch, NodeId, Offset, Token
from replicator.protocol.levels import Level, LevelKind, check_timeline
from replicator.records.codec import RecordCodec
from replicator.records.types import Membership, Timing
from replicator.store.machine import Machine
from replicator.store.view import Transaction, View

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PastState:
    """What a view of the past shows."""

    cluster: str
    topic_id: str
    timeline: str
    epoch: Epoch
    offset: Offset
    seq: int
    digest: str
    entries: int
    written_ms: int  # when its last record was written, by its author's clock

    def __str__(self) -> str:
        written = datetime.fromtimestamp(self.written_ms / 1000).isoformat(" ", "milliseconds")
        return f"cluster {self.cluster} as of offset {self.offset} ({written})"


class PastReads:
    """`server.backend.BackendReads`."""

    def __init__(self, machine: Machine, past: PastState) -> None:
        self._view = machine.view
        self._past = past

    def view(self, level: Level | None) -> View | Future[View]:
        """Raises `Stale` for a level that only a node of the cluster can meet."""
        if level is None or level.kind is LevelKind.EVENTUAL:
            return self._view
        token = level.token
        if token is None:
            raise Stale(f"{level.kind} reads are for the present, and this is {self._past}: ask a node of the cluster")
        check_timeline(token, self._past.timeline)
        if token.offset > self._past.offset:
            raise Stale(f"the token is of offset {token.offset}, and this is {self._past}: ask a node of the cluster")
        return self._view

    async def read(self, level: Level | None, answer: Callable[[View], T]) -> T:
        self.view(level)
        return answer(self._view)

    async def read_in_slices(self, level: Level | None, answer: Callable[[View], Awaitable[T]]) -> T:
        self.view(level)
        with self._view.snapshot() as snapshot:
            return await answer(snapshot)


class PastBackend:
    """`server.backend.Backend`. Its clock stands still at the time of the last record."""

    def __init__(self, machine: Machine, past: PastState) -> None:
        self.row_listener: RowListener | None = None
        self.change_listener: ChangeListener | None = None
        codec = RecordCodec()
        self.recent = RecentRecords(past.offset, lambda payload: codec.decode(payload, bytes.fromhex(past.timeline)))
        self.reads = PastReads(machine, past)
        self.leads = self.logs_commands = False
        self.membership = Membership()
        self.timing = Timing()
        self.replicas: tuple[ReplicaReport, ...] = ()
        self._machine = machine
        self._past = past

    def store(self) -> View:
        return self._machine.view

    def count_expiring(self) -> int:
        return self._machine.count_expiring()

    def token(self, written: Offset) -> Token:
        return Token(self._past.timeline, self._past.offset)

    def now_ms(self) -> int:
        return self._past.written_ms

    def are_changing(self, table: str, row: bytes) -> bool:
        return False

    def begin(self) -> Transaction:
        self._refuse("write to the leader of the cluster")

    def submit(self, transaction: Transaction, done: Done, executed: Executed | None = None) -> None:
        self._refuse("write to the leader of the cluster")

    async def wait_acked(self, offset: Offset, replicas: int, timeout_ms: float) -> int:
        return 0

    async def committed_offset(self, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        self._refuse("ask the leader of the cluster")

    def start_stream(self, request: StreamRequest, sink: RecordSink) -> Sequence[CommittedBatch]:
        self._refuse("ask the leader of the cluster")

    def end_stream(self, sink: RecordSink) -> None:
        pass

    def record_acks(self, sink: RecordSink, payloads: Sequence[bytes]) -> None:
        pass

    def set_downstream(self, sink: RecordSink, downstream: Mapping[Author, int]) -> None:
        pass

    def _refuse(self, instead: str) -> NoReturn:
        raise NotLeader(f"this is a read-only view of {self._past}: {instead}")

    def status(self) -> NodeStatus:
        past = self._past
        return NodeStatus(
            id=NodeId(f"view@{past.offset}"),
            epoch=past.epoch,
            timeline=past.timeline,
            topic_id=past.topic_id,
            seq=past.seq,
            applied_offset=past.offset,
            end_offset=past.offset,
            digest=past.digest,
            entries=past.entries,
            store_bytes=self._machine.size_bytes,
        )
