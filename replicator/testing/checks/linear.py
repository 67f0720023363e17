"""Linearizability of one key's reads and writes at a time, by Wing and Gong's search with Lowe's memory of states seen.

A history is linearizable iff its operations can be put in an order that respects real time (what was answered before
another was called stands before it) and in which every read returns what was written last. A write of unknown outcome
may stand anywhere after its call, or nowhere.
(Wing, Gong: Testing and Verifying Concurrent Objects, 1993; Lowe: Testing for Linearizability, 2017.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from replicator.protocol.levels import LevelKind
from replicator.testing.history import History, Operation, OperationKind, Outcome

MAX_STATES = 1_000_000


def check(history: History, took_effect: frozenset[str]) -> Iterator[str]:
    """`took_effect`: names of the writes that are in the log. Others of unknown outcome never were, nor will be."""
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
    """None if they are linearizable; otherwise the operation at which the longest order found ends.

    All are operations of one key, none of them was rejected. Raises `RuntimeError` if the search grows too large.
    """
    ordered = sorted(operations, key=lambda it: it.called_s)
    ends = [it.answered_s if it.outcome is Outcome.OK else inf for it in ordered]
    required = sum(1 << i for i, end in enumerate(ends) if end < inf)
    stack: list[tuple[int, bytes | None]] = [(0, None)]  # operations placed (bits), and the value behind them
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
    """Which operations may come next: those called before any that is left was answered; and that one."""
    earliest_end, earliest = inf, None
    candidates = []
    index = (~placed & (placed + 1)).bit_length() - 1  # the first that is not placed
    while index < len(ordered):
        if not placed >> index & 1:
            if ordered[index].called_s > earliest_end:
                break
            candidates.append(index)
            if ends[index] < earliest_end:
                earliest_end, earliest = ends[index], ordered[index]
        index += 1
    return candidates, earliest
