"""What the two halves of a node share, and the words by which one hands over to the other.

`Follower` reads the log, `Leader` writes it: `protocol.roles` says in which role which of them runs. A leader whose
append went astray reads its fate as a follower does; a candidate is a follower that has appended a claim, and a doubt
is a claim in the leader's own name.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from replicator.log.port import Log, Reader
from replicator.node.clock import Clock
from replicator.node.replica import Replica
from replicator.node.writes import Writes
from replicator.position import BEFORE_LOG, Author, Epoch, Offset
from replicator.protocol.ack_policy import local_readers
from replicator.protocol.lease import Lease
from replicator.protocol.log_state import LogState
from replicator.protocol.roles import Event, Role, advance
from replicator.protocol.timing import Timing
from replicator.records.types import VERSION, Claim, Header, Membership, Reason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NodeContext:
    """The parts of a node that outlive its roles."""

    author: Author
    priority: int
    replica: Replica
    inflight: Writes
    log: Log
    reader: Reader
    clock: Clock
    timing: Timing
    random: random.Random
    claims_sent_ms: dict[Epoch, float] = field(default_factory=dict)
    """When this process first sent a claim of an epoch not yet begun. Any copy of it may be the one that counts."""
    standing: RoleState = field(default_factory=lambda: RoleState())


@dataclass(slots=True)
class RoleState:
    """What this process is to the others, from its start to its end."""

    role: Role = Role.FOLLOWING
    lease: Lease = field(default_factory=Lease)
    may_stand: bool = True  # for election: not before it is known that no other process passes for this node
    write_from_ms: float = 0.0  # until then somebody may answer reads who does not learn of new writes

    def met(self, event: Event) -> None:
        """Raises `ImpossibleEvent`."""
        self.role = advance(self.role, event)

    def note_membership(self, before: Membership, after: Membership, now_ms: float, timing: Timing) -> None:
        """Who reads locally no more may not have read yet that this is so."""
        if local_readers(before) - local_readers(after):
            self.write_from_ms = max(self.write_from_ms, now_ms + timing.old_follower_lease_ms)

    def holds_writes(self, now_ms: float) -> bool:
        """Whether this node, if it leads, has to wait before it writes or confirms anything."""
        return now_ms < self.write_from_ms or self.lease.wait_ms(now_ms) > 0


@dataclass(frozen=True, slots=True)
class Follow:
    """Read the log: if the role is `CHECKING`, at least up to `resume_after`, where this node's last append stands."""

    why: str
    resume_after: Offset = BEFORE_LOG
    heir: Author | None = None  # who was given the lead: clients' writes wait until it is heard, so as to find it


@dataclass(frozen=True, slots=True)
class Lead:
    """Lead from here on."""

    why: str


def claim_record(context: NodeContext, state: LogState, leader: Author, reason: Reason) -> bytes:
    """A claim by this node, which has read the log up to `state`, that `leader` leads the next epoch."""
    epoch, codec = Epoch(state.epoch + 1), context.replica.codec
    header = Header(VERSION, state.timeline, epoch, context.author, state.seq, context.clock.wall_us(), state.chain)
    return codec.encode(header, codec.encode_body(Claim(leader, epoch, state.offset, reason)))


async def run_with_background(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]) -> T:
    """Run `main` to its end, and the others for as long. The first exception of any ends all."""
    first = asyncio.create_task(main)
    tasks: list[asyncio.Task[Any]] = [first, *map(asyncio.create_task, others)]
    waiting: set[asyncio.Task[Any]] = set(tasks)
    try:
        while not first.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        return first.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
