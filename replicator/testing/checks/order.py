"""Requests are linearizable, over all keys: the log's order explains all replies, and respects real time.

Each request is executed at one offset of the log: a write at that of its record, any other request at some offset whose
state explains its reply. A request that is called after another was answered is not executed before it. As the order
of the writes is known, it is enough to look for the first offset that explains each reply.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.levels import LINEARIZABLE
from replicator.testing.checks.execution import Executions
from replicator.testing.history import History


def check(history: History, executions: Executions, appended_s: Sequence[float]) -> Iterator[str]:
    """`appended_s`: when each entry was appended to the log, by offset."""
    requests = [it for it in history.answered() if it.level in (None, LINEARIZABLE)]
    events = [(it.called_s, 0, index) for index, it in enumerate(requests)]
    events += [(it.answered_s, 1, index) for index, it in enumerate(requests)]
    reached = BEFORE_LOG  # where the requests that have been answered were executed
    low: dict[int, Offset] = {}
    for at_s, answered, index in sorted(events):
        if not answered:
            low[index] = reached
            continue
        request, high = requests[index], Offset(bisect_right(appended_s, at_s) - 1)
        offset = executions.executed_at(request, low[index], high)
        if offset is None:
            yield f"not linearizable: no offset from {low[index]} to {high} explains {request} ({at_s:.6f} s)"
        else:
            reached = max(reached, offset)
