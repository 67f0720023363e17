"""Simulated nodes: the real `Node` on a simulated log, clock and process, with a real store."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from replicator.address import Address
from replicator.errors import ReplicatorError
from replicator.log.kafka.log import KafkaLog
from replicator.log.port import Reader
from replicator.node.context import open_context
from replicator.node.leader_link import CommittedOffset, LinkFailed
from replicator.node.node import Node
from replicator.position import Author, Epoch, NodeId
from replicator.protocol.timing import Timing
from replicator.records.types import Member, Mode
from replicator.store import boot, environment
from replicator.store.machine import Machine, open_machine
from replicator.testing.acks import SimAcks
from replicator.testing.clock import SimClock
from replicator.testing.history import Operation, Outcome
from replicator.testing.kafka import TOPIC_ID, Kafka, deliver
from replicator.testing.link import Link
from replicator.testing.loop import Process, SimLoop
from replicator.testing.wire import open_log

CLUSTER = "simulated"
_MAP_BYTES = 1 << 20
_LOST_BYTES = 1 << 13  # both pages that LMDB begins with


@dataclass(slots=True)
class Running:
    """One life of a node: from its start to its death."""

    process: Process
    link: Link
    log: KafkaLog
    reader: Reader
    acks: SimAcks
    machine: Machine
    node: Node
    task: asyncio.Task[None]
    unanswered: dict[str, Operation] = field(default_factory=dict)  # operations of clients, by name
    requests: set[asyncio.Task[None]] = field(default_factory=set)  # that an operator made


class SimNode:
    """One member over all its lives. Its clock goes on while it is dead."""

    def __init__(
        self, name: str, priority: int, folder: Path, kafka: Kafka, timing: Timing, peers: Mapping[str, SimNode]
    ) -> None:
        """`peers`: all nodes by name."""
        self.name = name
        self.priority = priority
        self.life: Running | None = None
        self.member = Member(NodeId(name), Mode.ASYNC, Address(name, 1), Address(name, 2), priority)
        self.clock = SimClock(kafka.loop, kafka.rng)
        self._folder = folder
        self._kafka = kafka
        self._loop: SimLoop = kafka.loop
        self._timing = timing
        self._peers = peers

    def start(self) -> Running:
        """Raises what `open_machine` does."""
        kafka = self._kafka
        process = Process(self.name)
        machine = open_machine(self._folder, CLUSTER, TOPIC_ID, map_bytes=_MAP_BYTES)
        link = Link(kafka, self.name)
        log, acks = process.context.run(open_log, link), SimAcks(link)
        author = Author(NodeId(self.name), kafka.rng.getrandbits(63))
        rng = random.Random(kafka.rng.getrandbits(64))
        context = open_context(author, self.priority, machine, log, self.clock, self._timing, rng)
        node = Node(context, acks, self.member, SimLeaderLink(link, self._peers))
        task = self._loop.create_task(node.run(), context=process.context)
        self.life = Running(process, link, log, context.reader, acks, machine, node, task)
        kafka.trace(f"{self.name}: starts as {author} at offset {machine.state.offset}")
        return self.life

    async def kill(self, *, system: bool) -> None:
        """As SIGKILL does; with `system`, as a crash of the operating system, after which the store is not trusted."""
        life, self.life = self.life, None
        assert life is not None
        self._kafka.trace(f"{self.name}: {'its system crashes' if system else 'is killed'}")
        life.link.cut = True
        now_s = self._loop.time()
        for operation in life.unanswered.values():
            operation.answer(Outcome.UNKNOWN, now_s, "the node died")
        life.unanswered.clear()
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
        if system:
            (self._folder / boot.MARK).write_text("another boot")
            with (self._folder / "data.mdb").open("r+b") as file:  # the system had written only a part of it
                file.write(bytes(_LOST_BYTES))

    def discard_store(self) -> None:
        """Between two lives: the next one begins with an empty store."""
        environment.discard(self._folder)


class SimLeaderLink:
    """Questions and answers travel as messages to the broker do. A question that is lost has no answer."""

    def __init__(self, link: Link, peers: Mapping[str, SimNode]) -> None:
        self._link = link
        self._peers = peers

    async def committed_offset(self, leader: Member, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        link, kafka = self._link, self._link.kafka
        answer: asyncio.Future[CommittedOffset] = asyncio.get_running_loop().create_future()
        if not (link.cut or link.isolated or kafka.rng.random() < kafka.faults.question_lost):
            kafka.later(kafka.message_ms(), self._arrive, leader.node, timeline, epoch, answer)
        return await answer

    def _arrive(self, node: NodeId, timeline: bytes, epoch: Epoch, answer: asyncio.Future[CommittedOffset]) -> None:
        kafka, life = self._link.kafka, self._peers[node].life
        if life is None:
            kafka.later(kafka.message_ms(), deliver, answer, LinkFailed("the connection is refused"))
        elif not life.link.isolated:
            request = kafka.loop.create_task(self._answer(life, timeline, epoch, answer), context=life.process.context)
            life.requests.add(request)
            request.add_done_callback(life.requests.discard)

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

    async def close(self) -> None:
        pass


def _drop(machine: Machine) -> None:
    """Close a store as the death of its process does: without a sync, and without a mark that it was closed."""
    machine.view.end_transaction()
    machine._env.close()
    os.close(machine._lock)
