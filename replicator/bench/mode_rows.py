"""The rows of `replicator bench modes`, and what is expected of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

ASYNC, QUORUM, SYNC_1, SYNC_2 = "async", "sync, quorum: 1 of 2 followers", "sync, 1 follower", "sync, 2 followers"
SUSPEND, INVALIDATE = "suspend, 1 follower", "invalidate, 1 follower"
ASYNC_WAIT = "async, SET + WAIT 1"
EVENTUAL, LINEARIZABLE = "eventual", "linearizable"
REDIS_ALONE, REDIS_WAIT = "Redis, 1 replica, SET", "Redis, 1 replica, SET + WAIT 1"
REDIS_FSYNC = "Redis, 1 replica, appendfsync always, SET + WAIT 1"
POSTGRES = "PostgreSQL, 1 standby, remote_apply, upsert"
WRITES, AT_LEADER, AT_FOLLOWER = "writes", "reads at the leader", "reads at a follower"


@dataclass(frozen=True, slots=True)
class ModeRow:
    group: str
    name: str
    worth: str  # of writes: where the data is when the reply is sent; of reads: what the reply includes
    per_s: float | None = None  # with 64 clients, as the next two
    p50_ms: float | None = None
    p99_ms: float | None = None
    single_p50_ms: float | None = None
    pipelined_per_s: float | None = None  # with 16 clients that send 16 writes at a time
    lowest_per_s: float | None = None  # of the rounds, as the next one
    highest_per_s: float | None = None
    trouble: str = ""  # empty if there were no errors


FIGURES = ("per_s", "p50_ms", "p99_ms", "single_p50_ms", "pipelined_per_s")


def median_row(rounds: Sequence[ModeRow]) -> ModeRow:
    """Of one row, in each round. An error in one of them is an error of all."""
    values: dict[str, list[float]] = {}
    for name in FIGURES:
        values[name] = [value for row in rounds if (value := getattr(row, name)) is not None]
    medians: dict[str, Any] = {name: median(of_rounds) if of_rounds else None for name, of_rounds in values.items()}
    return replace(
        rounds[0],
        **medians,
        lowest_per_s=min(values["per_s"], default=None),
        highest_per_s=max(values["per_s"], default=None),
        trouble="; ".join(dict.fromkeys(row.trouble for row in rounds if row.trouble)),
    )


@dataclass(frozen=True, slots=True)
class RowFigure:
    group: str
    name: str
    field: str

    def of(self, rows: Sequence[ModeRow]) -> float | None:
        """None if it was not measured, or with errors."""
        for row in rows:
            if (row.group, row.name) == (self.group, self.name) and not row.trouble:
                value: float | None = getattr(row, self.field)
                return value
        return None


@dataclass(frozen=True, slots=True)
class Expectation:
    """The `figure`, divided by `per` if given, is in these bounds."""

    what: str
    figure: RowFigure
    per: RowFigure | None
    at_least: float | None = None
    at_most: float | None = None

    def compare(self, rows: Sequence[ModeRow]) -> ExpectationResult:
        measured = self.figure.of(rows)
        if self.per is not None and measured is not None:
            other = self.per.of(rows)
            measured = measured / other if other else None
        met = None
        if measured is not None:
            met = (self.at_least or 0) <= measured <= (self.at_most or float("inf"))
        return ExpectationResult(self.what, measured, self.at_least, self.at_most, met)


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    what: str
    measured: float | None  # None: not measured, or with errors
    at_least: float | None
    at_most: float | None
    met: bool | None


EXPECTATIONS = (
    Expectation(
        "sync, 1 follower: writes a second / Redis appendfsync always + WAIT 1",
        RowFigure(WRITES, SYNC_1, "per_s"),
        RowFigure(WRITES, REDIS_FSYNC, "per_s"),
        at_least=1.0,
    ),
    Expectation(
        "the same, pipelined",
        RowFigure(WRITES, SYNC_1, "pipelined_per_s"),
        RowFigure(WRITES, REDIS_FSYNC, "pipelined_per_s"),
        at_least=0.6,
    ),
    Expectation(
        "the same, p50 of one client",
        RowFigure(WRITES, SYNC_1, "single_p50_ms"),
        RowFigure(WRITES, REDIS_FSYNC, "single_p50_ms"),
        at_most=1.3,
    ),
    Expectation(
        "async, SET + WAIT 1: p50 of one client / Redis",
        RowFigure(WRITES, ASYNC_WAIT, "single_p50_ms"),
        RowFigure(WRITES, REDIS_WAIT, "single_p50_ms"),
        at_most=6,
    ),
    Expectation(
        "sync, 1 follower: writes a second / PostgreSQL remote_apply",
        RowFigure(WRITES, SYNC_1, "per_s"),
        RowFigure(WRITES, POSTGRES, "per_s"),
        at_least=2.0,
    ),
    Expectation(
        "at a follower: linearizable reads a second / eventual ones",
        RowFigure(AT_FOLLOWER, LINEARIZABLE, "per_s"),
        RowFigure(AT_FOLLOWER, EVENTUAL, "per_s"),
        at_least=0.4,
    ),
    Expectation(
        "p50 of writes: invalidate, 1 follower / sync, 1 follower",
        RowFigure(WRITES, INVALIDATE, "p50_ms"),
        RowFigure(WRITES, SYNC_1, "p50_ms"),
        at_most=1.3,
    ),
    Expectation("async: p50 of one client's writes, ms", RowFigure(WRITES, ASYNC, "single_p50_ms"), None, at_most=0.6),
)


def compare(rows: Sequence[ModeRow]) -> list[ExpectationResult]:
    return [expectation.compare(rows) for expectation in EXPECTATIONS]
