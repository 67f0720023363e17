"""Three nodes in memory under a sync policy. Tests can hold back acks, and what a node reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from replicator.errors import ReplicatorError
from replicator.log.memory import MemoryAckTopic, MemoryLog, MemoryReader
from replicator.log.port import AppendRefused, Entry, Log
from replicator.node.claim import send_claim
from replicator.position import NodeId, Offset
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level
from replicator.protocol.timing import DEFAULT_TIMEOUTS, Timeouts
from replicator.records.codec import BARRIER, AckCodec
from replicator.records.types import Body, Mode, Policy, Reason, Timing, WriteMode
from replicator.store.keys import encode_key
from tests.memory_cluster import MemoryCluster, RunningNode, until

T = TypeVar("T")

A, B = (encode_key("kv", row, b"") for row in (b"a", b"b"))

STEADY = Timing(heartbeat_ms=20, lease_ms=20_000, election_ms=30_000, sync_ms=20_000, follower_lease_ms=10_000)
"""No elections and no ack timeouts, however slow the machine is."""

SYNC, ASYNC, JOINING = Mode.SYNC, Mode.ASYNC, Mode.JOINING
SUSPEND = Policy(WriteMode.SUSPEND)
INVALIDATE = Policy(WriteMode.INVALIDATE)
ALL = Policy(WriteMode.SYNC)


class GatedAckTopic(MemoryAckTopic):
    """Acks of held nodes are delivered later, or never."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[NodeId, list[bytes]] = {}
        self._codec = AckCodec()

    def publish(self, payload: bytes) -> None:
        held = self._held.get(self._codec.decode(payload).author.node)
        if held is None:
            super().publish(payload)
        else:
            held.append(payload)

    def hold(self, *nodes: str) -> None:
        for node in nodes:
            self._held[NodeId(node)] = []

    def let(self, *nodes: str) -> None:
        for node in nodes:
            for payload in self._held.pop(NodeId(node)):
                super().publish(payload)


class StallingReader(MemoryReader):
    stalled = False

    def _after(self, offset: Offset) -> list[Entry]:
        return [] if self.stalled else super()._after(offset)


class StallingLog(MemoryLog):
    def reader(self, start: Offset) -> StallingReader:
        return StallingReader(self, start)


class ModesCluster(MemoryCluster):
    """n1 is the leader."""

    acks: GatedAckTopic

    def __init__(self, folder: Path, timing: Timing = STEADY, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> None:
        super().__init__(folder, timing, StallingLog(), timeouts=timeouts)
        self.acks = GatedAckTopic()

    async def set_up(self, policy: Policy, *modes: Mode, logs: Mapping[str, Log] | None = None) -> None:
        """Start n1, n2, … in these modes. `logs`: of nodes that do not use the cluster's as it is."""
        for place, _ in enumerate(modes):
            name = f"n{place + 1}"
            await self.start(name, (logs or {}).get(name), priority=place)
        leader = await self.leader()
        for name, mode in zip(self.nodes, modes, strict=True):
            running = self.nodes[name]
            leader.node.membership_changes.register(running.member, running.node.ask_to_register())
            if mode is not ASYNC:
                leader.node.membership_changes.set_mode(NodeId(name), mode)
        await until(lambda: self.modes == list(modes))
        leader.node.membership_changes.set_policy(policy)
        await until(lambda: all(it.node.membership.policy == policy for it in self.nodes.values()))
        await self.caught_up()

    @property
    def n1(self) -> RunningNode:
        return self.nodes["n1"]

    @property
    def n2(self) -> RunningNode:
        return self.nodes["n2"]

    @property
    def n3(self) -> RunningNode:
        return self.nodes["n3"]

    @property
    def modes(self) -> list[Mode]:
        return [it.mode for it in self.n1.node.membership.members]

    async def acked(self, running: RunningNode) -> None:
        """Wait until n1 has the ack for what this node has applied now."""
        offset, node = running.machine.state.offset, running.member.node
        await until(lambda: node in (acks := self.n1.node.last_acks) and acks[node].ack.offset >= offset)

    @property
    def bodies(self) -> list[Body]:
        """The bodies of all records in the log."""
        codec = self.n1.node._context.replica.codec
        return [codec.decode(entry.payload, b"").body for entry in self.log.entries]

    def bodies_of(self, kind: type[T]) -> list[T]:
        """The bodies of that type."""
        return [body for body in self.bodies if isinstance(body, kind)]

    def refuse_once(self, refused: Callable[[Body], bool]) -> None:
        """The log refuses the next append in which that is true of a record."""
        codec, append = self.n1.node._context.replica.codec, self.log.append

        async def refusing(payloads: Sequence[bytes]) -> Offset:
            if any(payload != BARRIER and refused(codec.decode(payload, b"").body) for payload in payloads):
                self.log.append = append  # type: ignore[method-assign]
                raise AppendRefused("too few replicas are in sync")
            return await append(payloads)

        self.log.append = refusing  # type: ignore[method-assign]

    def stall(self, running: RunningNode) -> None:
        """From now on this node reads no new records."""
        self._reader(running).stalled = True

    def wake(self, running: RunningNode) -> None:
        self._reader(running).stalled = False
        self.log.append_now([])  # wakes all readers

    def _reader(self, running: RunningNode) -> StallingReader:
        reader = running.node._context.reader
        assert isinstance(reader, StallingReader)
        return reader

    async def take_over(self, running: RunningNode) -> None:
        """Make this node the leader after the old one has died."""
        await send_claim(running.node._context, Reason.ELECTION)
        await until(lambda: running.node.leads and running.node.lease_left_ms > 0)


def begin_write(running: RunningNode, row: bytes, value: bytes) -> asyncio.Task[Offset | ReplicatorError]:
    """A write that need not end before the test goes on: its offset, or why it has none."""

    async def write() -> Offset | ReplicatorError:
        try:
            return await running.write(row, value)
        except ReplicatorError as error:
            return error

    return asyncio.create_task(write())


async def read(running: RunningNode, key: bytes, level: Level | None = LINEARIZABLE) -> bytes | None:
    return await running.node.reads.read(level, lambda view: view.get(key))


async def begin_read(
    running: RunningNode, key: bytes, level: Level | None = LINEARIZABLE
) -> asyncio.Task[bytes | None]:
    """A read that has begun, and need not end before the test goes on."""
    reading = asyncio.create_task(read(running, key, level))
    await asyncio.sleep(0)
    return reading


def stored(running: RunningNode, key: bytes) -> bytes | None:
    """As an eventual read sees it."""
    view = running.node.reads.view(EVENTUAL)
    assert not isinstance(view, asyncio.Future)
    return view.get(key)
