"""What the two roles of a node share, and the words by which one hands over to the other.

             a claim for it is accepted, and it has read up to its own last append
        Follower ────────────────────────────────────────────────────────────────────▶ Leader
                 ◀────────────────────────────────────────────────────────────────────
             an append is in doubt, somebody else's record stands before it, or it gave the lead away

A leader whose append went astray reads its fate as a follower does. So a candidate is a follower that has appended a
claim, and a doubt is a claim in the leader's own name.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from replicator.log.port import Log, Reader
from replicator.node.clock import Clock
from replicator.node.inflight import Inflight
from replicator.node.replica import Replica
from replicator.position import BEFORE_LOG, Author, Epoch, Offset
from replicator.protocol.commit import LogState
from replicator.protocol.timing import Timing
from replicator.records.types import VERSION, Claim, Header, Reason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts of a node that outlive its roles."""

    author: Author
    priority: int
    replica: Replica
    inflight: Inflight
    log: Log
    reader: Reader
    clock: Clock
    timing: Timing
    random: random.Random
    claims_sent_ms: dict[Epoch, float] = field(default_factory=dict)
    """When this process first sent a claim of an epoch not yet begun. Any copy of it may be the one that counts."""
    restraint: Restraint = field(default_factory=lambda: Restraint())


@dataclass(slots=True)
class Restraint:
    """What this node has to let pass before it acts as a leader."""

    may_stand: bool = True  # for election: not before it is known that no other process passes for this node
    until_ms: float = 0.0
    """After a forced claim: the old leader may hold its lease until then, so there is no other, and no new write."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Read the log: up to `resume_after`, where this node's last append may stand, and beyond epoch `doubt`."""

    why: str
    resume_after: Offset = BEFORE_LOG
    doubt: Epoch | None = None
    heir: Author | None = None  # who was given the lead: clients' writes wait until it is heard, so as to find it


@dataclass(frozen=True, slots=True)
class Lead:
    """Lead from here on. The claim was sent by this node at `lease_from_ms`, or by another (None: no lease yet)."""

    why: str
    lease_from_ms: float | None


def claim_record(shared: Shared, state: LogState, leader: Author, reason: Reason) -> bytes:
    """A claim by this node, which has read the log up to `state`, that `leader` leads the next epoch."""
    epoch, codec = Epoch(state.epoch + 1), shared.replica.codec
    header = Header(VERSION, state.timeline, epoch, shared.author, state.seq, shared.clock.wall_us(), state.chain)
    return codec.encode(header, codec.encode_body(Claim(leader, epoch, state.offset, reason)))


async def run_beside(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]) -> T:
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
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
