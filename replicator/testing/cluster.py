"""Simulated nodes: the real `Node` on a simulated log, clock and process, with a real store."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from replicator.address import Address
from replicator.errors import ReplicatorError
from replicator.intervals import REGISTRATION_RETRY_S, STATE_POLL_S
from replicator.limits import REPLICATION_BACKLOG_BYTES, SLICE_MS
from replicator.log.kafka.log import KafkaLog
from replicator.log.port import Reader
from replicator.node.backlog import StreamRequest
from replicator.node.commands import Execute
from replicator.node.context import open_context
from replicator.node.disk_tail import DiskTail
from replicator.node.health import NodeState
from replicator.node.node import Node
from replicator.node.node_link import CommittedOffset, LinkFailed
from replicator.position import GOSSIP, Author, Epoch, NodeId
from replicator.protocol.pace import ALWAYS_STEADY, Pace
from replicator.protocol.timing import Timeouts
from replicator.protocol.upstream import DEFAULT_UPSTREAM, UpstreamRule
from replicator.records.types import Change, Command, Member, Mode, Timing
from replicator.server.redis.execution import Replay
from replicator.server.redis.server import RedisServer
from replicator.steps import Steps
from replicator.store import boot, environment
from replicator.store.machine import Machine, open_machine
from replicator.store.view import Entries
from replicator.testing.acks import SimAcks
from replicator.testing.clock import SimClock
from replicator.testing.connection import SimConnection
from replicator.testing.kafka import TOPIC_ID, Kafka, deliver
from replicator.testing.link import Link
from replicator.testing.loop import Process, SimLoop
from replicator.testing.record_stream import SimRecordStream
from replicator.testing.wire import open_log

T = TypeVar("T")

CLUSTER = "simulated"
_MAP_BYTES = 1 << 20
_TIMEOUTS = Timeouts(answer_ms=1500)
_TAIL_BYTES = 1 << 20
_SMALL_BACKLOG_BYTES = 8_000  # in memory: about ten records
_LOST_BYTES = 1 << 13  # both pages that LMDB begins with


@dataclass(slots=True)
class Running:
    """One life of a node: from its start to its death."""

    author: Author
    process: Process
    link: Link
    log: KafkaLog
    reader: Reader
    acks: SimAcks
    machine: Machine
    node: Node
    server: RedisServer
    task: asyncio.Task[None]
    connections: list[SimConnection] = field(default_factory=list)
    requests: set[asyncio.Task[None]] = field(default_factory=set)  # that an operator or another node made

    @property
    def unanswered(self) -> int:
        """Number of requests of clients."""
        return sum(it.unanswered for it in self.connections)


class SimNode:
    """One member over all its lives. Its clock goes on while it is dead."""

    def __init__(
        self,
        name: str,
        priority: int,
        folder: Path,
        kafka: Kafka,
        timing: Timing,
        peers: Mapping[str, SimNode],
        pace: Pace = ALWAYS_STEADY,
        upstreams: Sequence[UpstreamRule] = (DEFAULT_UPSTREAM,),
    ) -> None:
        """`peers`: all nodes by name. `upstreams`: of which each process of this node has one, as configured."""
        self.name = name
        self.priority = priority
        self.life: Running | None = None
        self.former: list[Running] = []  # processes that still run although another one was started elsewhere
        self.member = Member(NodeId(name), Mode.ASYNC, Address(name, 1), Address(name, 2), priority)
        self.clock = SimClock(kafka.loop, kafka.rng)
        self._folder = folder
        self._kafka = kafka
        self._loop: SimLoop = kafka.loop
        self.timing = timing
        self._pace = pace
        self._upstreams = upstreams
        self._peers = peers

    @property
    def lives(self) -> list[Running]:
        return self.former if self.life is None else [self.life, *self.former]

    def find(self, author: Author) -> Running | None:
        """The process that answers where this one was registered: itself, or one that was started in its place."""
        return next((it for it in self.lives if it.author == author), self.life)

    def start_elsewhere(self) -> Running:
        """Start another process of this node with an empty store. The one before goes on."""
        assert self.life is not None
        self.former.append(self.life)
        self._folder = self._folder.with_name(f"{self._folder.name}+")
        return self.start()

    def start(self) -> Running:
        """Raises what `open_machine` does."""
        kafka = self._kafka
        author = Author(NodeId(self.name), kafka.rng.getrandbits(63))
        process = Process(str(author))
        machine = open_machine(self._folder, CLUSTER, TOPIC_ID, map_bytes=_MAP_BYTES)
        link = Link(kafka, self.name)
        log, acks = process.context.run(open_log, link), SimAcks(link)
        rng = random.Random(kafka.rng.getrandbits(64))
        upstream = random.Random(f"{self.name} {author.incarnation}").choice(self._upstreams)
        is_small = upstream.wanted == GOSSIP
        context = open_context(
            author,
            self.priority,
            machine,
            log,
            self.clock,
            self.timing,
            rng,
            timeouts=_TIMEOUTS,
            pace=self._pace,
            upstream=upstream,
            tail=DiskTail(self._folder, _TAIL_BYTES) if is_small else None,
            backlog_bytes=_SMALL_BACKLOG_BYTES if is_small else REPLICATION_BACKLOG_BYTES,
        )
        member = replace(self.member, incarnation=author.incarnation)
        execute = _with_slow_steps(Replay(sql_wait_s=None), self._loop, random.Random(f"steps {author.incarnation}"))
        node = Node(context, acks, member, SimNodeLink(link, self._peers), execute)
        server = RedisServer(node, self.member.resp, cluster=CLUSTER, clock=self._loop.time, sql_wait_s=None)
        task = self._loop.create_task(node.run(), context=process.context)
        self.life = Running(author, process, link, log, context.reader, acks, machine, node, server, task)
        self.life.requests.add(self._loop.create_task(self._register(self.life, member), context=process.context))
        kafka.trace(f"{self.name}: starts as {author} at offset {machine.state.offset}")
        return self.life

    def connect(self, life: Running) -> SimConnection:
        connection = SimConnection(self._loop, life.process, life.server, life.node, life.machine)
        life.connections.append(connection)
        return connection

    def disconnect(self, life: Running) -> None:
        """Its clients connect again, perhaps to another process of this node."""
        for connection in life.connections:
            connection.lose()
        life.connections.clear()

    async def kill(self, *, system: bool) -> None:
        """As SIGKILL does; with `system`, as a crash of the operating system, after which the store is not trusted."""
        life, self.life = self.life, None
        assert life is not None
        self._kafka.trace(f"{self.name}: {'its system crashes' if system else 'is killed'}")
        await self._end(life)
        if system:
            (self._folder / boot.MARK).write_text("another boot")
            with (self._folder / "data.mdb").open("r+b") as file:  # the system had written only a part of it
                file.write(bytes(_LOST_BYTES))

    async def kill_former(self, life: Running) -> None:
        self._kafka.trace(f"{life.author}: is killed")
        self.former.remove(life)
        await self._end(life)

    def discard_store(self) -> None:
        """Between two lives: the next one begins with an empty store."""
        environment.discard(self._folder)

    async def _end(self, life: Running) -> None:
        life.link.cut = True
        self.disconnect(life)
        if life.process.paused:
            self._loop.resume(life.process)
        dying = [life.task, *life.requests]
        for task in dying:
            task.cancel()
        await asyncio.wait(dying)
        await life.acks.close()
        await life.reader.close()
        await life.log.close()
        _drop(life.machine)

    async def _register(self, life: Running, member: Member) -> None:
        """As `server.registration` does. Requests may be lost, late, and repeated."""
        kafka = self._kafka
        while life.node.state is not NodeState.SERVING:
            await self.clock.sleep(1000 * STATE_POLL_S)
        await self.clock.sleep(kafka.rng.choice((0, 0, 2000)))  # the process before is asked, and may not answer
        while not life.node.is_registered:
            leader = life.machine.state.leader
            if leader is not None and life.node.state is NodeState.SERVING:
                replaces = life.node.ask_to_register()
                if not (life.link.cut or life.link.isolated or kafka.rng.random() < kafka.faults.question_lost):
                    asked = self._peers[leader.node].find(leader)
                    kafka.later(kafka.message_ms(), self._ask_to_register, asked, member, replaces)
            await self.clock.sleep(1000 * REGISTRATION_RETRY_S)

    def _ask_to_register(self, asked: Running | None, member: Member, replaces: int) -> None:
        def register(node: Node) -> None:
            try:
                node.membership_changes.register(member, replaces)
            except ReplicatorError as error:
                self._kafka.trace(f"{member.author}: not registered: {error}")

        if asked is not None and not (asked.link.cut or asked.link.isolated):
            self._loop.call_soon(register, asked.node, context=asked.process.context)


class SimNodeLink:
    """Questions and answers travel as messages to the broker do. A question that is lost has no answer."""

    def __init__(self, link: Link, peers: Mapping[str, SimNode]) -> None:
        self._link = link
        self._peers = peers

    async def committed_offset(self, leader: Member, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        def arrive(life: Running, answer: asyncio.Future[CommittedOffset]) -> None:
            work = self._answer(life, timeline, epoch, answer)
            request = self._link.kafka.loop.create_task(work, context=life.process.context)
            life.requests.add(request)
            request.add_done_callback(life.requests.discard)

        return await self._ask(leader.author, arrive)

    async def open_stream(self, upstream: Member, request: StreamRequest) -> SimRecordStream:
        def arrive(life: Running, answer: asyncio.Future[SimRecordStream]) -> None:
            loop = self._link.kafka.loop
            loop.call_soon(self._begin_stream, life, request, answer, context=life.process.context)

        return await self._ask(upstream.author, arrive)

    async def _ask(self, leader: Author, arrive: Callable[[Running, asyncio.Future[T]], None]) -> T:
        """`arrive`: called when the question has reached the process."""
        link, kafka = self._link, self._link.kafka
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not (link.cut or link.isolated or kafka.rng.random() < kafka.faults.question_lost):
            kafka.later(kafka.message_ms(), self._reach, leader, arrive, answer)
        return await answer

    def _reach(
        self, leader: Author, arrive: Callable[[Running, asyncio.Future[T]], None], answer: asyncio.Future[T]
    ) -> None:
        kafka, life = self._link.kafka, self._peers[leader.node].find(leader)
        if life is None:
            kafka.later(kafka.message_ms(), deliver, answer, LinkFailed("the connection is refused"))
        elif not life.link.isolated:
            arrive(life, answer)

    async def _answer(
        self, life: Running, timeline: bytes, epoch: Epoch, answer: asyncio.Future[CommittedOffset]
    ) -> None:
        """Runs in the process that was asked."""
        kafka = self._link.kafka
        outcome: CommittedOffset | LinkFailed
        try:
            outcome = await life.node.committed_offset(timeline, epoch)
        except ReplicatorError as error:
            outcome = LinkFailed(str(error))
        if not life.link.isolated:
            kafka.later(kafka.message_ms(), deliver, answer, outcome)

    def _begin_stream(self, life: Running, request: StreamRequest, answer: asyncio.Future[SimRecordStream]) -> None:
        """Runs in the process that was asked."""
        kafka = self._link.kafka
        stream = SimRecordStream(self._link, life.link, life.node, life.process)
        try:
            missing = life.node.start_stream(request, stream.sink)
        except ReplicatorError as error:
            kafka.later(kafka.message_ms(), deliver, answer, LinkFailed(str(error)))
            return
        for batch in missing:
            stream.sink.send(batch)
        if not life.link.isolated:
            kafka.later(kafka.message_ms(), self._deliver_stream, answer, stream)

    def _deliver_stream(self, answer: asyncio.Future[SimRecordStream], stream: SimRecordStream) -> None:
        if answer.done():
            stream.close()
        else:
            answer.set_result(stream)

    async def close(self) -> None:
        pass


def _with_slow_steps(execute: Execute, loop: SimLoop, rng: random.Random) -> Execute:
    """After half of the steps, a slice of time has passed, so that other code runs in the middle of a command."""

    def execute_slowly(command: Command, state: Entries) -> Steps[Mapping[bytes, Change]]:
        steps = execute(command, state)
        try:
            while True:
                yield next(steps)
                if rng.random() < 0.5:
                    loop.spend(SLICE_MS / 1000)
        except StopIteration as end:
            changes: Mapping[bytes, Change] = end.value
            return changes
        finally:
            steps.close()

    return execute_slowly


def _drop(machine: Machine) -> None:
    """Close a store as the death of its process does: without a sync, and without a mark that it was closed."""
    machine.view.end_transaction()
    machine._env.close()
    os.close(machine._lock)
