"""`replicator bench scaling`: what many followers cost Kafka, and how far they are behind."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from replicator.bench.scaling import ScalingReport, measure_scaling
from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_json, verdict


def scaling(
    followers: Annotated[int, typer.Option(min=2, help="Number of followers; one is measured, too.")] = 8,
    writes: Annotated[int, typer.Option(min=1_000, help="Writes while the egress of Kafka is measured.")] = 100_000,
    behind: Annotated[int, typer.Option(min=10_000, help="Records that a follower has to catch up.")] = 1_000_000,
    json: options.Json = False,
) -> None:
    """Measure cascades and gossip: what Kafka sends, the lag that each level adds, and how fast a follower catches up.

    Example: replicator bench scaling --followers 4
    """
    with ConsoleProgress(errors) as progress:
        report = measure_scaling(followers, writes, behind, password=options.environment_password(), progress=progress)
    if json:
        print_json({**asdict(report), "met": report.met})
        return
    console.print(draw_scaling(report))


def draw_scaling(report: ScalingReport) -> Table:
    table = Table("", "", title=f"{report.machine}, fanout {report.fanout}", show_header=False)
    for egress in report.egress:
        what = f"{egress.upstream}, {egress.followers} followers: bytes that Kafka sends for each byte appended"
        table.add_row(what, f"{egress.per_byte:.2f}")
    for lag in report.lag:
        table.add_row(f"level {lag.level}: added lag, p50 and p99 ms", f"{lag.p50_ms:.2f}, {lag.p99_ms:.2f}")
    catch_up = report.catch_up
    table.add_row(f"{catch_up.records:,} records behind: records/s from a follower", f"{catch_up.per_s:,.0f}")
    table.add_row("bytes that Kafka sends meanwhile, for each byte that was missing", f"{catch_up.egress:.2f}")
    table.add_section()
    for what, met in report.met.items():
        table.add_row(what, verdict(met))
    return table
