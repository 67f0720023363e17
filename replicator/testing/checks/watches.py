"""A transaction is executed only if the rows that it watches are as its client has read them."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.position import BEFORE_LOG
from replicator.testing.checks.execution import Executions
from replicator.testing.history import History


def check(history: History, executions: Executions) -> Iterator[str]:
    for request in history.answered():
        if not request.watched or executions.record_of(request, watched=True) is not None:
            continue
        shown = executions.shown_at(request, BEFORE_LOG, request.applied, watched=True)
        if shown is None or executions.record_of(request) is not None:
            yield f"a watched row had changed: {request}"
