"""The rows of `replicator bench modes`, how they are shown, and what is expected of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

ASYNC, QUORUM, SYNC_1, SYNC_2 = "async", "sync, quorum: 1 of 2 followers", "sync, 1 follower", "sync, 2 followers"
SUSPEND, INVALIDATE = "suspend, 1 follower", "invalidate, 1 follower"
EVENTUAL, LINEARIZABLE = "eventual", "linearizable"
REDIS_ALONE, REDIS_WAIT = "Redis, 1 replica, SET", "Redis, 1 replica, SET + WAIT 1"
REDIS_FSYNC = "Redis, 1 replica, appendfsync always, SET + WAIT 1"
POSTGRES = "PostgreSQL, 1 standby, remote_apply, upsert"
WRITES, AT_LEADER, AT_FOLLOWER = "writes", "reads at the leader", "reads at a follower"


@dataclass(frozen=True, slots=True)
class Row:
    """`worth`: where the data is when the answer comes, or what the answer is sure to tell."""

    group: str
    name: str
    worth: str
    per_s: float | None = None  # with 64 clients, as the next two
    p50_ms: float | None = None
    p99_ms: float | None = None
    single_p50_ms: float | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    group: str
    name: str
    field: str

    def of(self, rows: Sequence[Row]) -> float | None:
        """None if it was not measured, or not well."""
        for row in rows:
            if (row.group, row.name) == (self.group, self.name) and not row.trouble:
                value: float | None = getattr(row, self.field)
                return value
        return None


@dataclass(frozen=True, slots=True)
class Expectation:
    """`figure`, divided by `per` if that is given, is at least or at most so much."""

    what: str
    figure: Figure
    per: Figure | None
    at_least: float | None = None
    at_most: float | None = None

    def compare(self, rows: Sequence[Row]) -> dict[str, Any]:
        measured = self.figure.of(rows)
        if self.per is not None and measured is not None:
            other = self.per.of(rows)
            measured = measured / other if other else None
        met = measured is not None and (self.at_least or 0) <= measured <= (self.at_most or float("inf"))
        return {
            "what": self.what,
            "measured": measured,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "met": None if measured is None else met,
        }


EXPECTATIONS = (
    Expectation(
        "sync, 1 follower: writes a second / Redis appendfsync always + WAIT 1",
        Figure(WRITES, SYNC_1, "per_s"),
        Figure(WRITES, REDIS_FSYNC, "per_s"),
        at_least=1.0,
    ),
    Expectation(
        "sync, 1 follower: writes a second / PostgreSQL remote_apply",
        Figure(WRITES, SYNC_1, "per_s"),
        Figure(WRITES, POSTGRES, "per_s"),
        at_least=2.0,
    ),
    Expectation(
        "at a follower: linearizable reads a second / eventual ones",
        Figure(AT_FOLLOWER, LINEARIZABLE, "per_s"),
        Figure(AT_FOLLOWER, EVENTUAL, "per_s"),
        at_least=0.4,
    ),
    Expectation(
        "p50 of writes: invalidate, 1 follower / sync, 1 follower",
        Figure(WRITES, INVALIDATE, "p50_ms"),
        Figure(WRITES, SYNC_1, "p50_ms"),
        at_most=1.3,
    ),
    Expectation("async: p50 of one client's writes, ms", Figure(WRITES, ASYNC, "single_p50_ms"), None, at_most=0.6),
)


def compare(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [expectation.compare(rows) for expectation in EXPECTATIONS]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def draw(rows: Sequence[Row], title: str) -> Table:
    table = Table("", "what an answer is worth", title=title)
    for heading in ("a second", "p50 ms", "p99 ms", "1 client p50 ms"):
        table.add_column(heading, justify="right")
    group = ""
    for row in rows:
        if row.group != group:
            table.add_section()
            table.add_row(f"[bold]{row.group}[/]")
            group = row.group
        times = (_ms(value) for value in (row.p50_ms, row.p99_ms, row.single_p50_ms))
        table.add_row(row.name, row.worth, "-" if row.per_s is None else f"{row.per_s:,.0f}", *times)
        if row.trouble:
            table.add_row("", f"[red]{row.trouble}[/]")
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def draw_expectations(compared: Sequence[dict[str, Any]]) -> Table:
    table = Table("expected", "measured", "wanted", "")
    for it in compared:
        wanted = f"≥ {it['at_least']:g}" if it["at_least"] is not None else f"≤ {it['at_most']:g}"
        mark = {None: "not measured", True: "[green]met[/]", False: "[red]missed[/]"}[it["met"]]
        table.add_row(it["what"], "-" if it["measured"] is None else f"{it['measured']:.2f}", wanted, mark)
    return table
