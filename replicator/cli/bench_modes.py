"""`replicator bench modes`: what each mode and each read level costs."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from replicator.bench.closed_loop import WARM_UP_SHARE
from replicator.bench.mode_rows import ExpectationResult, ModeRow
from replicator.bench.modes import ModesReport, measure_modes
from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_json


def modes(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each load of a row takes.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often all rows are measured, in turn.")] = 3,
    out: Annotated[Path | None, typer.Option(help="File for the JSON.")] = None,
    bootstrap: options.Bootstrap = None,
    json: options.Json = False,
) -> None:
    """Measure all modes and read levels, next to Redis and PostgreSQL if they are installed.

    Figures are medians of the rounds, with the lowest and the highest rate.

    Example: replicator bench modes --seconds 2 --rounds 1
    """
    with ConsoleProgress(errors) as progress:
        password = options.environment_password()
        report = measure_modes(seconds, rounds, bootstrap=bootstrap, password=password, progress=progress)
    if out is not None:
        out.write_text(json_format.dumps(asdict(report), indent=2) + "\n")
    if json:
        print_json(asdict(report))
        return
    console.print(draw_rows(report.rows, f"{report.clients} clients, {report.machine}"))
    console.print(draw_expectations(report.expectations))
    console.print(_describe_conditions(report), highlight=False)


def draw_rows(rows: Sequence[ModeRow], title: str) -> Table:
    table = Table("", "what a reply is worth", title=title)
    for heading in ("per second", "range", "p50 ms", "p99 ms", "1 client p50 ms", "16 x 16 pipelined"):
        table.add_column(heading, justify="right")
    group = ""
    for row in rows:
        if row.group != group:
            table.add_section()
            table.add_row(f"[bold]{row.group}[/]")
            group = row.group
        times = (_ms(value) for value in (row.p50_ms, row.p99_ms, row.single_p50_ms))
        table.add_row(row.name, row.worth, _rate(row.per_s), _range(row), *times, _rate(row.pipelined_per_s))
        if row.trouble:
            table.add_row("", f"[red]{row.trouble}[/]")
    return table


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _range(row: ModeRow) -> str:
    return "-" if row.lowest_per_s is None else f"{row.lowest_per_s:,.0f}-{row.highest_per_s:,.0f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def draw_expectations(results: Sequence[ExpectationResult]) -> Table:
    table = Table("expected", "measured", "bound", "")
    for it in results:
        bound = f"≥ {it.at_least:g}" if it.at_least is not None else f"≤ {it.at_most:g}"
        mark = {None: "not measured", True: "[green]met[/]", False: "[red]missed[/]"}[it.met]
        table.add_row(it.what, "-" if it.measured is None else f"{it.measured:.2f}", bound, mark)
    return table


def _describe_conditions(report: ModesReport) -> str:
    before_ms, after_ms = report.fsync_p50_ms
    return (
        f"{report.keys:,} keys of 16 bytes with values of 16 bytes, chosen at random; a warm-up of {WARM_UP_SHARE:.0%} "
        "of the time of each row. The clients run on the same cores as the servers, with the same load generator for "
        f"all servers but PostgreSQL, which pgbench loads. An fsync took {before_ms:.2f} ms before all "
        f"measurements, and {after_ms:.2f} ms afterwards."
    )
