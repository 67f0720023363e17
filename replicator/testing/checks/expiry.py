"""The leader deletes no row before its time, by the leader's clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from replicator.position import Offset
from replicator.store.rows import KEYSPACE_TABLE
from replicator.store.values import expiry_of
from replicator.testing.checks.canonical import Canonical
from replicator.testing.checks.execution import Executions
from replicator.testing.history import History, Outcome


def check(
    history: History, executions: Executions, canonical: Canonical, latest_ms: Callable[[Offset], int]
) -> Iterator[str]:
    """`latest_ms`: the latest time that the clock of a record's author had shown when the record was appended.

    Deletions by requests are not of interest, and those that a request of unknown outcome may have made are not known.
    """
    requested = {executions.record_of(it) for it in history.answered()}
    doubtful = {
        line[1] for it in history.requests if it.outcome is not Outcome.OK for line in it.lines if line[0] == b"DEL"
    }
    for offset, (_, writes) in canonical.writes.items():
        if offset in requested:
            continue
        for change in (change for write in writes for change in write.changes):
            expires_at_ms = expiry_of(change.old)
            if change.new is not None or change.table != KEYSPACE_TABLE or change.row in doubtful:
                continue
            if expires_at_ms is None or expires_at_ms > latest_ms(offset):
                yield f"{change.row.decode()} was deleted at offset {offset} before it expired"
