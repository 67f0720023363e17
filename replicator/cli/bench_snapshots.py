"""`replicator bench snapshots`: what a snapshot costs, and how soon a new replica serves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from replicator.bench.snapshots import SnapshotBenchmark, measure_snapshots
from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_json, verdict


def snapshots(
    keys: Annotated[int, typer.Option(min=1_000, help="Keys with values of 100 bytes.")] = 1_000_000,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured, in turn.")] = 3,
    json: options.Json = False,
) -> None:
    """Measure snapshots, new replicas and restarts, next to Redis' full resync and PostgreSQL's pg_basebackup.

    Example: replicator bench snapshots --keys 2000000
    """
    with ConsoleProgress(errors) as progress:
        report = measure_snapshots(keys, seconds, rounds, password=options.environment_password(), progress=progress)
    if json:
        print_json({**asdict(report), "met": report.met})
        return
    console.print(draw_snapshots(report))


def draw_snapshots(report: SnapshotBenchmark) -> Table:
    table = Table("", "", title=f"{report.machine}, {report.keys:,} keys, {report.rounds} rounds", show_header=False)
    for what, value in (
        ("take a snapshot, s", report.take_s),
        ("new replica from a snapshot, until it has caught up, s", report.add_s),
        ("Redis: full resync, s", report.redis_sync_s),
        ("PostgreSQL: pg_basebackup, s", report.postgres_sync_s),
        ("restart of a node, s", report.restart_s),
        ("leader's p99, ms", report.p99_ms),
        ("while snapshots are taken", report.p99_during_ms),
        ("ratio of both", report.p99_ratio),
    ):
        table.add_row(what, "not installed" if value is None else f"{value:.2f}")
    for what, met in report.met.items():
        table.add_row(what, verdict(met))
    return table
