"""`replicator bench modes`: what each mode and each read level costs."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from replicator.bench.closed_loop import WARM_UP_SHARE
from replicator.bench.mode_rows import ExpectationResult, ModeRow
from replicator.bench.modes import PIPELINE, PIPELINES, ModesReport, measure_modes
from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_json, verdict


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
    if out is not None:
        options.check_writable("--out", out)
    with ConsoleProgress(errors) as progress:
        password = options.environment_password()
        report = measure_modes(seconds, rounds, bootstrap=bootstrap, password=password, progress=progress)
    if out is not None:
        out.write_text(json_format.dumps(asdict(report), indent=2) + "\n")
    if json:
        print_json(asdict(report))
        return
    console.print(draw_rows(report.rows, f"{report.clients} clients, {report.machine}"))
    console.print(draw_worth(report.rows))
    console.print(draw_expectations(report.expectations))
    console.print(_describe_conditions(report))


def draw_rows(rows: Sequence[ModeRow], title: str) -> Table:
    """Fits into 80 columns."""
    table = Table("requests a second", title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("median", "lowest", "highest", "p50 ms", "p99 ms", "single\np50 ms", "16 x 16"):
        table.add_column(heading, justify="right", no_wrap=True)
    group = ""
    for row in rows:
        if row.group != group:
            table.add_section()
            table.add_row(Text(row.group, "bold"))
            group = row.group
        rates = (_rate(rate) for rate in (row.per_s, row.lowest_per_s, row.highest_per_s))
        times = (_ms(value) for value in (row.p50_ms, row.p99_ms, row.single_p50_ms))
        table.add_row(row.name, *rates, *times, _rate(row.pipelined_per_s))
        if row.trouble:
            table.add_row(Text(row.trouble, "red"))
    return table


def draw_worth(rows: Sequence[ModeRow]) -> Table:
    table = Table("", "what a reply is worth", box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(row.name, row.worth)
    return table


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def draw_expectations(results: Sequence[ExpectationResult]) -> Table:
    table = Table("expected", "measured", "bound", "")
    for it in results:
        bound = f"≥ {it.at_least:g}" if it.at_least is not None else f"≤ {it.at_most:g}"
        table.add_row(it.what, "-" if it.measured is None else f"{it.measured:.2f}", bound, verdict(it.met))
    return table


def _describe_conditions(report: ModesReport) -> str:
    before_ms, after_ms = report.fsync_p50_ms
    return (
        f"{report.keys:,} keys of 16 bytes with values of 16 bytes, chosen at random; a warm-up of {WARM_UP_SHARE:.0%} "
        "of the time of each row. The clients run on the same cores as the servers, with the same load generator for "
        f"all servers but PostgreSQL, which pgbench loads. single: 1 client; 16 x 16: {PIPELINES} clients that send "
        f"{PIPELINE} writes at a time; else {report.clients} clients. An fsync took {before_ms:.2f} ms before "
        f"all measurements, and {after_ms:.2f} ms afterwards."
    )
