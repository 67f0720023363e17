"""The results of all runs of one kind: how long writes paused, and violations of the guarantees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from replicator.chaos.failover import EventKind, FailoverRun
from replicator.chaos.redis_connection import RedisConnection
from replicator.chaos.write_ledger import WriteFaults, WriteLedger

BATCH = 1000
BATCH_S = 30


@dataclass(frozen=True, slots=True)
class FailoverFigures:
    kind: StrEnum
    pauses_ms: tuple[float, ...]
    acknowledged: int
    lost: int  # acknowledged, but missing
    rejected_there: int  # rejected, but present
    failed_twice: int  # the first try and the retry of a client
    stale_reads: int

    @property
    def broken(self) -> bool:
        """Writes may fail twice while there is no leader, but not when leadership is transferred."""
        faults = self.lost + self.rejected_there + self.stale_reads
        return faults > 0 or (self.kind is EventKind.HANDOVER and self.failed_twice > 0)

    def pause_ms(self, percent: int) -> float:
        """The percentile of the pauses; one of them."""
        return sorted(self.pauses_ms)[math.ceil(len(self.pauses_ms) * percent / 100) - 1]

    def as_json(self) -> dict[str, Any]:
        percentiles = {f"p{percent}_ms": self.pause_ms(percent) for percent in (50, 95, 99)}
        return {**asdict(self), "runs": len(self.pauses_ms), **percentiles, "max_ms": self.pause_ms(100)}


async def failover_figures(
    kind: StrEnum, runs: Sequence[FailoverRun], ledger: WriteLedger, nodes: Sequence[RedisConnection]
) -> FailoverFigures:
    """Reads every write of the runs from every node."""
    faults = [await _read_back(run.numbers, ledger, nodes) for run in runs]
    return FailoverFigures(
        kind,
        pauses_ms=tuple(round(run.pause_s * 1000, 1) for run in runs),
        acknowledged=sum(ledger.count(run.numbers) for run in runs),
        lost=sum(it.lost for it in faults),
        rejected_there=sum(it.rejected_there for it in faults),
        failed_twice=sum(run.failed_twice for run in runs),
        stale_reads=sum(run.stale_reads for run in runs),
    )


async def _read_back(numbers: range, ledger: WriteLedger, nodes: Sequence[RedisConnection]) -> WriteFaults:
    """The largest number of each fault on any node."""
    worst = WriteFaults(0, 0)
    for node in nodes:
        found: list[bytes | None] = []
        for part in _batches(numbers):
            found += await node.ask(BATCH_S, "MGET", *map(ledger.key, part))
        worst = WriteFaults(*map(max, worst, ledger.check(numbers, found)))
    return worst


async def delete_writes(numbers: range, ledger: WriteLedger, leader: RedisConnection) -> None:
    for part in _batches(numbers):
        await leader.ask(BATCH_S, "DEL", *map(ledger.key, part))


def _batches(numbers: range) -> list[range]:
    return [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
