"""A read in a session shows all that its client has read and written before, on any node and at any level."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.levels import LevelKind
from replicator.testing.checks.execution import Executions
from replicator.testing.history import History


def check(history: History, executions: Executions) -> Iterator[str]:
    seen: dict[str, Offset] = defaultdict(lambda: BEFORE_LOG)  # by client
    for request in history.answered():  # in the order of each client
        in_session = request.level is not None and request.level.kind is LevelKind.SESSION
        low = seen[request.client] if in_session else BEFORE_LOG
        offset = executions.executed_at(request, low, max(low, request.applied))
        if offset is not None:
            seen[request.client] = max(seen[request.client], offset)
        elif in_session:
            yield f"a session read went backwards, to before offset {low}: {request}"
