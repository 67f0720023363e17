"""What is promised after Kafka has lost acknowledged records: the history is checked in two eras, before and after.

Until the loss, the log that was lost decides. After it, the log that is left decides, once all leases have ended that
rest on lost records: nodes that have read them cannot know of the loss at once. Meanwhile only writes are checked. A
write may be lost if its record was, and one that was void may be accepted if the claim before it was lost. A node that
has read lost records and has not noticed the loss may go on showing them, except in reads that say how current they
are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from replicator.log.port import Entry
from replicator.protocol.levels import LevelKind
from replicator.protocol.timing import MAX_DRIFT, Timing
from replicator.records.codec import RecordCodec
from replicator.testing.checks.canonical import Canonical, read_log
from replicator.testing.history import History, Operation, OperationKind, Outcome
from replicator.testing.observer import Overlap, Sample
from replicator.testing.partition import Loss, PartitionLog

_MAY_BE_LOST = (LevelKind.EVENTUAL, LevelKind.SESSION)


@dataclass(frozen=True, slots=True)
class Era:
    canonical: Canonical
    entries: Sequence[Entry]
    appended_s: Sequence[float]  # by offset
    from_s: float  # reads that were called earlier are not checked
    until_s: float  # nor are those that were answered later
    loss_s: float  # the last one before
    lost: frozenset[str]  # writes whose records were lost before

    def history(self, history: History, samples: Sequence[Sample]) -> History:
        """What is checked against the log of this era. `samples`: of all nodes, in order."""
        times_s = [sample.at_s for sample in samples]

        def has_read_this_log(read: Operation) -> bool:
            index = bisect_right(times_s, read.answered_s) - 1
            while index >= 0 and samples[index].node != read.node:
                index -= 1
            return index < 0 or self._holds(samples[index])

        checked = []
        for it in history.operations:
            if it.kind is not OperationKind.READ:
                if it.called_s <= self.until_s and it.name not in self.lost:
                    checked.append(self._as_known(it))
            elif self.from_s <= it.called_s and it.answered_s <= self.until_s:
                may_be_lost = it.level is not None and it.level.kind in _MAY_BE_LOST
                if not may_be_lost or self.from_s == -inf or has_read_this_log(it):
                    checked.append(it)
        return History(checked)

    def overlaps(self, overlaps: Sequence[Overlap]) -> list[Overlap]:
        return [it for it in overlaps if self.from_s <= it.at_s <= self.until_s]

    def removals(self) -> list[Operation]:
        """Of rows that have expired."""
        return [
            Operation(f"expiry at offset {offset}", "", OperationKind.REMOVE, row, self.appended_s[offset], value=value)
            for offset, row, value in self.canonical.expired
        ]

    def _holds(self, sample: Sample) -> bool:
        known = self.canonical.states.get(sample.state.offset)
        return known is not None and known.state == sample.state

    def _as_known(self, write: Operation) -> Operation:
        """Its outcome if it is known in this era."""
        if write.answered_s > self.until_s:
            return replace(write, outcome=Outcome.UNKNOWN, answered_s=inf)
        if write.answered_s < self.loss_s and write.outcome is Outcome.REJECTED:
            return replace(write, outcome=Outcome.UNKNOWN, answered_s=inf)
        return write


def eras_of(losses: Sequence[Loss], log: PartitionLog, timing: Timing) -> list[Era]:
    """One more than there are losses."""
    eras: list[Era] = []
    from_s = loss_s = -inf
    lost = frozenset[str]()
    for loss in losses:
        era = _era(loss.log, from_s, loss.at_s, loss_s, lost)
        written = era.canonical.written.items()
        lost |= {name for name, offsets in written if any(offset >= loss.end for offset in offsets)}
        from_s, loss_s = _leases_end_s(loss.at_s, timing), loss.at_s
        eras.append(era)
    return [*eras, _era(log, from_s, inf, loss_s, lost)]


def _era(log: PartitionLog, from_s: float, until_s: float, loss_s: float, lost: frozenset[str]) -> Era:
    entries = log.entries()
    return Era(read_log(entries, RecordCodec()), entries, log.appended_s(), from_s, until_s, loss_s, lost)


def _leases_end_s(loss_s: float, timing: Timing) -> float:
    """When the last lease ends that rests on a lost record: a leader with a lease may give one to a local reader."""
    return loss_s + (timing.lease_ms + timing.follower_lease_ms) / 1000 * (1 + MAX_DRIFT)
