"""Nodes of one process on a log in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from replicator.address import Address
from replicator.errors import ReplicatorError
from replicator.log.memory import MemoryAckTopic, MemoryLog
from replicator.log.port import AppendOutcomeUnknown, AppendRefused, Entry, Log
from replicator.node.backlog import StreamRequest
from replicator.node.clock import Clock, SystemClock
from replicator.node.committed_batch import CommittedBatch
from replicator.node.context import open_context
from replicator.node.damage import HealHistory
from replicator.node.node import Node
from replicator.node.node_link import CommittedOffset, LinkFailed, ReceivedRecords, RecordStream, StreamSignal
from replicator.position import Author, Epoch, NodeId, Offset
from replicator.protocol.pace import ALWAYS_STEADY
from replicator.protocol.timing import DEFAULT_TIMEOUTS, Timeouts
from replicator.protocol.upstream import DEFAULT_UPSTREAM, UpstreamRule
from replicator.records.types import VERSION, Member, Membership, Mode, Timing
from replicator.server.redis.execution import Replay
from replicator.store.machine import Machine, open_machine

WAIT_S = 10


class SetWallClock(SystemClock):
    """Its wall clock stands still until the test sets it."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def wall_us(self) -> int:
        return self.now_ms * 1000


class RunningNode:
    def __init__(
        self, node: Node, machine: Machine, member: Member, link: MemoryLink, task: asyncio.Task[None]
    ) -> None:
        self.node = node
        self.link = link
        self.member = member
        self.machine = machine
        self.task = task

    async def stop(self) -> None:
        """Stop like a killed process: nothing is finished."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        self.machine.close()

    def get(self, key: bytes) -> bytes | None:
        return self.node.store().get(key)

    async def write(self, row: bytes, value: bytes | None) -> Offset:
        """The offset of the write. Raises its error."""
        transaction = self.node.begin()
        transaction.put("kv", row, b"", value)
        return await submit(self.node, transaction)


async def submit(node: Node, transaction: object) -> Offset:
    ended: asyncio.Future[Offset] = asyncio.get_running_loop().create_future()

    def done(error: ReplicatorError | None, offset: Offset) -> None:
        if error is None:
            ended.set_result(offset)
        else:
            ended.set_exception(error)

    node.submit(transaction, done)  # type: ignore[arg-type]
    return await ended


class FaultyLog(MemoryLog):
    """Injects `fault` once, at the next append that contains `fault_at`."""

    fault: str = ""
    fault_at: bytes = b""

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        fault = self.fault if any(self.fault_at in payload for payload in payloads) else ""
        if fault:
            self.fault = ""
        if fault == "refuse":
            raise AppendRefused("no")
        if fault == "lose":
            raise AppendOutcomeUnknown("the request was lost")
        base = self.append_now(payloads)
        if fault == "lose answer":
            raise AppendOutcomeUnknown("the answer was lost")
        if fault == "land twice":
            self.append_now(payloads)
        return base


class MemoryLink:
    """Asks a leader on the same event loop."""

    def __init__(self, nodes: Mapping[str, RunningNode]) -> None:
        self._nodes = nodes
        self.cut = False
        self.stream_limit = 0  # so many streams of records may be opened, one after the other
        self.opened: list[MemoryStream] = []

    async def committed_offset(self, leader: Member, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        running = self._nodes[leader.node]
        if self.cut or running.task.done():
            raise LinkFailed("the connection is refused")
        try:
            return await running.node.committed_offset(timeline, epoch)
        except ReplicatorError as error:
            raise LinkFailed(str(error)) from error

    async def open_stream(self, upstream: Member, request: StreamRequest) -> RecordStream:
        running = self._nodes[upstream.node]
        if self.stream_limit <= len(self.opened) or self.cut or running.task.done():
            raise LinkFailed("the connection is refused")
        stream = MemoryStream(running.node)
        try:
            missing = running.node.start_stream(request, stream.sink)
        except ReplicatorError as error:
            raise LinkFailed(str(error)) from error
        for batch in missing:
            stream.sink.send(batch)
        self.opened.append(stream)
        return stream

    async def close(self) -> None:
        pass


class MemoryStream:
    """The follower's end of a stream."""

    def __init__(self, leader: Node) -> None:
        self.sink = MemorySink(self)
        self.acks: list[bytes] = []  # that were sent
        self.loses_acks = False
        self.taken = 0  # how often something was taken from it
        self._leader = leader
        self._received: asyncio.Queue[ReceivedRecords | None] = asyncio.Queue()

    async def next(self) -> ReceivedRecords:
        received = await self._received.get()
        if received is None:
            raise LinkFailed("the connection was closed")
        self.taken += 1
        return received

    def ack(self, *payloads: bytes) -> None:
        self.acks += payloads
        if not self.loses_acks:
            self._leader.record_acks(self.sink, payloads)

    def report_downstream(self, downstream: Mapping[Author, int]) -> None:
        self._leader.set_downstream(self.sink, downstream)

    def close(self) -> None:
        self._leader.end_stream(self.sink)
        self.deliver(None)

    def deliver(self, received: ReceivedRecords | None) -> None:
        """None: the connection is lost."""
        self._received.put_nowait(received)


class MemorySink:
    """The leader's end."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stalled = False  # what the leader sends is lost
        self.closed = False
        self.heartbeats = 0  # that the leader has sent
        self.unsent_bytes = 0
        self._stream = stream

    def send(self, batch: CommittedBatch) -> None:
        if not self.stalled:
            entries = [Entry(Offset(batch.base + at), payload) for at, payload in enumerate(batch.payloads)]
            self._stream.deliver(ReceivedRecords(entries, None))

    def request_ack(self) -> None:
        self._stream.deliver(ReceivedRecords((), StreamSignal.GETACK))

    def send_heartbeat(self) -> None:
        self.heartbeats += 1
        if not self.stalled:
            self._stream.deliver(ReceivedRecords((), StreamSignal.HEARTBEAT))

    def close(self) -> None:
        self.closed = True
        self._stream.deliver(None)


class MemoryCluster:
    def __init__(
        self,
        folder: Path,
        timing: Timing | None = None,
        log: MemoryLog | None = None,
        clock: Clock | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        """`timing`: of the configs of all nodes; a test may change it between two starts."""
        self.folder = folder
        self.clock = clock or SystemClock()
        self.log = log or MemoryLog()
        self.acks = MemoryAckTopic()
        self.timing = timing or Timing()
        self.timeouts = timeouts
        self.version = VERSION  # of records, in a new log
        self.pace = ALWAYS_STEADY  # of the nodes that are started from now on
        self.stream_limit = 0  # `MemoryLink.stream_limit` of the nodes that are started from now on
        self.upstreams: dict[str, UpstreamRule] = {}  # of nodes that are started from now on
        self.nodes: dict[str, RunningNode] = {}  # the last process of each
        self._started: list[RunningNode] = []

    async def start(
        self,
        name: str,
        log: Log | None = None,
        priority: int = 0,
        resp: str = "",
        clock: Clock | None = None,
        folder: str = "",
        healed: HealHistory | None = None,
    ) -> RunningNode:
        """`folder`: of its store, if another process of this node may run. `healed`: as `Node` takes it."""
        log = log or self.log
        machine = open_machine(self.folder / (folder or name), "test", log.identity, map_bytes=1 << 20)
        seed = random.Random()
        if not machine.state.timeline:
            machine.meta = replace(machine.meta, membership=Membership(version=self.version))
        author = Author(NodeId(name), seed.getrandbits(63))
        context = open_context(
            author,
            priority,
            machine,
            log,
            clock or self.clock,
            self.timing,
            seed,
            configured_names=Timing.__dataclass_fields__,
            timeouts=self.timeouts,
            pace=self.pace,
            upstream=self.upstreams.get(name, DEFAULT_UPSTREAM),
        )
        member = replace(self.member(name, priority, resp), incarnation=author.incarnation)
        link = MemoryLink(self.nodes)
        link.stream_limit = self.stream_limit
        node = Node(context, self.acks.open(), member, link, Replay(), healed=healed)
        running = RunningNode(node, machine, member, link, asyncio.create_task(node.run()))
        self.nodes[name] = running
        self._started.append(running)
        return running

    def member(self, name: str, priority: int = 0, resp: str = "") -> Member:
        return Member(NodeId(name), Mode.ASYNC, Address.parse(resp or f"{name}:1"), Address(name, 2), priority)

    async def stop(self) -> None:
        for running in self._started:
            if not running.task.done():
                await running.stop()

    async def leader(self) -> RunningNode:
        await until(lambda: any(self._leads(it) for it in self.nodes.values()))
        return next(it for it in self.nodes.values() if self._leads(it))

    async def register(self, running: RunningNode) -> None:
        """As a process does by itself, unless it leads (`server.registration`)."""
        leader = await self.leader()
        leader.node.membership_changes.register(running.member, running.node.ask_to_register())
        await until(lambda: running.node.is_registered)

    async def caught_up(self) -> None:
        """Wait until every node that runs has applied the whole log."""
        await until(lambda: all(it.machine.state.offset + 1 >= len(self.log.entries) for it in self._live()))

    def _live(self) -> list[RunningNode]:
        return [it for it in self.nodes.values() if not it.task.done()]

    def _leads(self, running: RunningNode) -> bool:
        return not running.task.done() and running.node.leads


async def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (a condition on several nodes has no one event)
            await asyncio.sleep(0.001)
