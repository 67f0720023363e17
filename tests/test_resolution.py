"""A leader that resolves an append claims less and less often while none of its claims can be read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from replicator.intervals import MAX_RESOLVE_RETRY_MS, RESOLVE_RETRY_MS
from replicator.log.memory import MemoryLog
from replicator.log.port import AppendRefused
from replicator.node.clock import SystemClock
from replicator.node.context import open_context
from replicator.node.resolution import Resolution
from replicator.position import Author, NodeId, Offset
from replicator.records.types import Timing
from replicator.store.machine import open_machine


class PatientClock(SystemClock):
    """Notes for how long it was to sleep, and does not."""

    def __init__(self) -> None:
        self.sleeps: list[float] = []

    async def sleep(self, duration_ms: float) -> None:
        self.sleeps.append(duration_ms)


class CountingLog(MemoryLog):
    """Refuses every append."""

    appends = 0

    async def append(self, payloads: Sequence[bytes]) -> Offset:
        self.appends += 1
        raise AppendRefused("no")


async def test_the_pauses_between_claims_double_up_to_a_maximum(tmp_path: Path) -> None:
    clock, log = PatientClock(), CountingLog()
    machine = open_machine(tmp_path / "n1", "test", log.identity, map_bytes=1 << 20)
    author = Author(NodeId("n1"), 1)
    context = open_context(author, 0, machine, log, clock, Timing(), random.Random(0))
    resolution = Resolution(context)
    for _ in range(8):
        await resolution.step()
    assert log.appends == 8
    assert clock.sleeps[:3] == [RESOLVE_RETRY_MS, 2 * RESOLVE_RETRY_MS, 4 * RESOLVE_RETRY_MS]
    assert clock.sleeps[-2:] == [MAX_RESOLVE_RETRY_MS, MAX_RESOLVE_RETRY_MS]
    machine.close()
