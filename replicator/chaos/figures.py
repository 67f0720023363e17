"""What came out of the runs of a kind: how long writes paused, and what must not be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from replicator.chaos.client import Connection
from replicator.chaos.events import EventKind, Run
from replicator.chaos.ledger import Faults, Ledger

BATCH = 1000
BATCH_S = 30


@dataclass(frozen=True, slots=True)
class Figures:
    kind: EventKind
    pauses_ms: tuple[float, ...]
    acknowledged: int
    lost: int  # acknowledged, and not there
    rejected_there: int
    failed_twice: int  # a client tries once more
    stale_reads: int

    @property
    def broken(self) -> bool:
        """Writes may fail twice while nobody leads, but not when the lead is handed over."""
        faults = self.lost + self.rejected_there + self.stale_reads
        return faults > 0 or (self.kind is EventKind.HANDOVER and self.failed_twice > 0)

    def pause_ms(self, percent: int) -> float:
        """The pause that so many in a hundred do not exceed."""
        return sorted(self.pauses_ms)[math.ceil(len(self.pauses_ms) * percent / 100) - 1]

    def as_json(self) -> dict[str, Any]:
        percentiles = {f"p{percent}_ms": self.pause_ms(percent) for percent in (50, 95, 99)}
        return {**asdict(self), "runs": len(self.pauses_ms), **percentiles, "max_ms": self.pause_ms(100)}


async def figures(kind: EventKind, runs: Sequence[Run], ledger: Ledger, nodes: Sequence[Connection]) -> Figures:
    """Reads every write back from every node."""
    faults = [await _read_back(run.numbers, ledger, nodes) for run in runs]
    return Figures(
        kind,
        pauses_ms=tuple(round(run.pause_s * 1000, 1) for run in runs),
        acknowledged=sum(ledger.count(run.numbers) for run in runs),
        lost=sum(it.lost for it in faults),
        rejected_there=sum(it.rejected_there for it in faults),
        failed_twice=sum(run.failed_twice for run in runs),
        stale_reads=sum(run.stale_reads for run in runs),
    )


async def _read_back(numbers: range, ledger: Ledger, nodes: Sequence[Connection]) -> Faults:
    """As the worst node has it."""
    worst = Faults(0, 0)
    for node in nodes:
        found: list[bytes | None] = []
        for part in _batches(numbers):
            found += await node.ask(BATCH_S, "MGET", *map(ledger.key, part))
        worst = Faults(*map(max, worst, ledger.check(numbers, found)))
    return worst


async def delete(numbers: range, ledger: Ledger, leader: Connection) -> None:
    for part in _batches(numbers):
        await leader.ask(BATCH_S, "DEL", *map(ledger.key, part))


def _batches(numbers: range) -> list[range]:
    return [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]
