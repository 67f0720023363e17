"""Each read meets its read level, and returns the state after some prefix of the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.levels import LevelKind
from replicator.protocol.timing import MAX_DRIFT
from replicator.testing.checks.canonical import Canonical
from replicator.testing.checks.execution import Executions
from replicator.testing.history import History, Request


def check(history: History, executions: Executions, canonical: Canonical, appended_s: Sequence[float]) -> Iterator[str]:
    """`appended_s`: when each entry was appended to the log, by offset."""
    for read in history.answered():
        if not read.only_reads or read.id:
            continue
        if executions.shown_at(read, BEFORE_LOG, read.applied) is None:
            yield f"not a prefix of the log up to offset {read.applied}: {read}"
        elif read.level is not None and read.level.kind is LevelKind.BOUNDED:
            required = _required(read, canonical, appended_s)
            # a leader may know that the writes in flight do not change the key
            if executions.shown_at(read, required, max(required, read.applied)) is None:
                yield f"staler than its bound, which requires offset {required}: {read}"


def _required(read: Request, canonical: Canonical, appended_s: Sequence[float]) -> Offset:
    assert read.level is not None
    since_s = read.called_s - read.level.max_age_ms / 1000 * (1 + MAX_DRIFT)
    return canonical.before(Offset(sum(it <= since_s for it in appended_s) - 1), read.level.max_records)
