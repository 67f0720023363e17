"""What is promised after Kafka has lost acknowledged records: the history is checked in two eras, before and after.

Until the loss, the log that was lost decides. After it, the log that is left decides, once all leases have ended that
rest on lost records: nodes that have read them cannot know of the loss at once. Of the requests that were made earlier,
only writes are checked. A write may be lost if its record was, and one that was void may be accepted if the claim
before it was lost. A node that has read lost records and has not noticed the loss may go on showing them, except in
reads that say how current they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from replicator.log.port import Entry
from replicator.protocol.levels import LevelKind
from replicator.protocol.timing import MAX_DRIFT
from replicator.records.codec import RecordCodec
from replicator.testing.checks.canonical import Canonical, read_log
from replicator.testing.history import History, Outcome, Request
from replicator.testing.observer import Overlap
from replicator.testing.partition import Loss, PartitionLog

_MAY_BE_LOST = (LevelKind.EVENTUAL, LevelKind.SESSION)


@dataclass(frozen=True, slots=True)
class Era:
    canonical: Canonical
    entries: Sequence[Entry]
    appended_s: Sequence[float]  # by offset
    from_s: float  # of requests that were called earlier, only writes are checked
    until_s: float  # what was answered later is not known
    loss_s: float  # the last one before
    lost: frozenset[str]  # marks of writes whose records were lost before

    def history(self, history: History) -> History:
        """All requests. The outcome of those that are not to be checked against the log of this era is not known."""
        return History([it if self._is_checked(it) else _unknown(it) for it in history.requests])

    def overlaps(self, overlaps: Sequence[Overlap]) -> list[Overlap]:
        return [it for it in overlaps if self.from_s <= it.at_s <= self.until_s]

    def _is_checked(self, request: Request) -> bool:
        if request.answered_s > self.until_s:
            return False
        if request.called_s >= self.from_s:
            may_be_lost = request.level is not None and request.level.kind in _MAY_BE_LOST
            return not may_be_lost or self.from_s == -inf or self._has_read_this_log(request)
        if request.mark in self.lost:
            return False
        if request.outcome is Outcome.REJECTED:
            return request.answered_s >= self.loss_s and self._has_read_this_log(request)
        marked = self.canonical.marked.get(request.mark, ())
        return request.must_write or any(place.offset == request.record for place in marked)

    def _has_read_this_log(self, request: Request) -> bool:
        known = self.canonical.states.get(request.applied)
        return known is not None and known.state == request.state


def _unknown(request: Request) -> Request:
    return replace(request, outcome=Outcome.UNKNOWN, answered_s=inf)


def eras_of(losses: Sequence[Loss], log: PartitionLog) -> list[Era]:
    """One more than there are losses."""
    eras: list[Era] = []
    from_s = loss_s = -inf
    lost = frozenset[str]()
    for loss in losses:
        era = _era(loss.log, from_s, loss.at_s, loss_s, lost)
        marked = era.canonical.marked.items()
        lost |= {mark for mark, places in marked if any(place.offset >= loss.end for place in places)}
        from_s, loss_s = _leases_end_s(loss.at_s, era.canonical), loss.at_s
        eras.append(era)
    return [*eras, _era(log, from_s, inf, loss_s, lost)]


def _era(log: PartitionLog, from_s: float, until_s: float, loss_s: float, lost: frozenset[str]) -> Era:
    entries = log.entries()
    return Era(read_log(entries, RecordCodec()), entries, log.appended_s(), from_s, until_s, loss_s, lost)


def _leases_end_s(loss_s: float, canonical: Canonical) -> float:
    """When the last lease ends that rests on a lost record: a leader with a lease may give one to a local reader."""
    longest_ms = max((it.lease_ms + it.follower_lease_ms for it in canonical.timings), default=0)
    return loss_s + longest_ms / 1000 * (1 + MAX_DRIFT)
