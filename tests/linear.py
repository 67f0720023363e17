"""Checks linearizability one key at a time, by Wing and Gong's search with Lowe's cache of visited states.

A history is linearizable iff its operations can be put in an order that respects real time (an operation that was
answered before another was called precedes it) and in which every read returns the last value written. A write of
unknown outcome may take effect at any time after its call, or never.
(Wing, Gong: Testing and Verifying Concurrent Objects, 1993; Lowe: Testing for Linearizability, 2017.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from replicator.protocol.levels import LevelKind
from replicator.testing.history import Outcome
from tests.register_history import History, Operation, OperationKind

MAX_STATES = 1_000_000


def check(history: History, took_effect: frozenset[str]) -> Iterator[str]:
    """`took_effect`: names of the writes that are in the log. Other writes of unknown outcome never take effect."""
    for key in sorted({operation.key for operation in history.operations}):
        operations = [it for it in history.operations if it.key == key and _counts(it, took_effect)]
        stuck = first_violation(operations)
        if stuck is not None:
            yield f"{key.decode()} is not linearizable: no order explains {stuck} (answered {stuck.answered_s:.6f} s)"


def _counts(operation: Operation, took_effect: frozenset[str]) -> bool:
    if operation.level is not None and operation.level.kind is not LevelKind.LINEARIZABLE:
        return False
    if operation.outcome is Outcome.OK:
        return True
    return operation.kind is not OperationKind.READ and operation.name in took_effect


def first_violation(operations: Sequence[Operation]) -> Operation | None:
    """None if they are linearizable; otherwise the operation at which the longest valid order ends.

    All operations are of one key, and none was rejected. Raises `RuntimeError` if the search needs too many states.
    """
    ordered = sorted(operations, key=lambda it: it.called_s)
    ends = [it.answered_s if it.outcome is Outcome.OK else inf for it in ordered]
    required = sum(1 << i for i, end in enumerate(ends) if end < inf)
    stack: list[tuple[int, bytes | None]] = [(0, None)]  # operations placed (bits), and the value after them
    seen = set(stack)
    longest, stuck = -1, None
    while stack:
        placed, value = stack.pop()
        if placed & required == required:
            return None
        candidates, earliest = _next(ordered, ends, placed)
        if (placed & required).bit_count() > longest:
            longest, stuck = (placed & required).bit_count(), earliest
        for index in reversed(candidates):
            operation = ordered[index]
            if operation.kind is OperationKind.READ and operation.value != value:
                continue
            step = placed | 1 << index, operation.after(value)
            if step not in seen:
                if len(seen) > MAX_STATES:
                    raise RuntimeError(f"more than {MAX_STATES} states: check shorter histories")
                seen.add(step)
                stack.append(step)
    return stuck


def _next(ordered: Sequence[Operation], ends: Sequence[float], placed: int) -> tuple[list[int], Operation | None]:
    """The remaining operations called before the first of their answers, and the operation of that answer."""
    earliest_end, earliest = inf, None
    candidates = []
    index = (~placed & (placed + 1)).bit_length() - 1  # the first operation that is not placed
    while index < len(ordered):
        if not placed >> index & 1:
            if ordered[index].called_s > earliest_end:
                break
            candidates.append(index)
            if ends[index] < earliest_end:
                earliest_end, earliest = ends[index], ordered[index]
        index += 1
    return candidates, earliest
