"""`replicator bench sql`: what SQL costs, and what each way to replicate a statement takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from replicator.bench.sql import SqlPlan, SqlReport, measure_sql
from replicator.bench.sql_engine import EngineRates
from replicator.bench.sql_port import CLIENTS, PIPELINE, PIPELINES, PortFigure
from replicator.bench.sql_replication import ReplicationFigure
from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, count, errors, print_json, verdict

DEFAULT = SqlPlan()
QUICK = SqlPlan(statements=400, rows=100, scanned=5_000, seconds=0.3, rounds=1)


def sql(
    statements: Annotated[
        int, typer.Option(min=100, help="UPDATEs of one row that are replicated in each way.")
    ] = DEFAULT.statements,
    rows: Annotated[int, typer.Option(min=2, max=5_000, help="Rows of an UPDATE that changes many.")] = DEFAULT.rows,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each load through the port.")] = DEFAULT.seconds,
    rounds: Annotated[int, typer.Option(min=1, help="How often these are measured, in turn.")] = DEFAULT.rounds,
    quick: Annotated[bool, typer.Option("--quick", help="Everything in short, in place of the options above.")] = False,
    bootstrap: options.Bootstrap = None,
    json: options.Json = False,
) -> None:
    """Measure SQL: replication by rows and by commands, statements a second, and scans, next to PostgreSQL and SQLite.

    Example: replicator bench sql --rounds 1
    """
    logging.disable(logging.WARNING)  # a replica logs each void record
    plan = QUICK if quick else SqlPlan(statements, rows, seconds=seconds, rounds=rounds)
    with ConsoleProgress(errors) as progress:
        password = options.environment_password()
        report = measure_sql(plan, bootstrap=bootstrap, password=password, progress=progress)
    if json:
        print_json({**asdict(report), "met": report.met})
        return
    console.print(*draw_sql(report), sep="\n")


def draw_sql(report: SqlReport) -> Iterator[Table]:
    yield _draw_replication(report.replication, report.machine)
    yield _draw_port(report.port, report.no_postgres, report.rounds)
    yield _draw_engine(report.engine)
    table = Table("expected", "")
    for what, met in report.met.items():
        table.add_row(what, verdict(met))
    yield table


def _draw_replication(figures: Sequence[ReplicationFigure], machine: str) -> Table:
    table = Table("statement", "replicated as", title=machine)
    for heading in ("bytes of the log", "applied/s", "rows/s"):
        table.add_column(heading, justify="right")
    for it in figures:
        rates = (f"{it.bytes_per_statement:,.0f}", f"{it.records_per_s:,.0f}", f"{it.rows_per_s:,.0f}")
        table.add_row(it.statement, it.replication, *rates)
    return table


def _draw_port(figures: Sequence[PortFigure], no_postgres: str, rounds: int) -> Table:
    table = Table(
        "a second, through the port",
        "",
        title=count(rounds, "round", "rounds"),
        caption=no_postgres or None,
    )
    for heading in (f"{CLIENTS} clients", "p50 ms", "p99 ms", f"{PIPELINES} x {PIPELINE} pipelined"):
        table.add_column(heading, justify="right")
    for it in figures:
        pipelined = "" if it.pipelined_per_s is None else f"{it.pipelined_per_s:,.0f}"
        table.add_row(it.what, it.server, f"{it.per_s:,.0f}", f"{it.p50_ms:.2f}", f"{it.p99_ms:.2f}", pipelined)
    return table


def _draw_engine(rates: EngineRates) -> Table:
    table = Table(f"in process, {rates.rows:,} rows of 5 columns", "", "ratio", "")
    for what, value, ratio, of in (
        ("fields/s, SELECT sum(…)", rates.sum_fields_per_s, rates.sum_ratio, "rows of LMDB's iteration"),
        ("fields/s, SELECT *", rates.fetch_fields_per_s, rates.fetch_ratio, "rows of LMDB's iteration"),
        ("SELECT/s of one row", rates.selects_per_s, rates.select_ratio, "SQLite in memory"),
        ("UPDATE/s of one row", rates.updates_per_s, rates.update_ratio, "SQLite in memory"),
    ):
        table.add_row(what, f"{value:,.0f}", f"{ratio:.3f}", of)
    return table
