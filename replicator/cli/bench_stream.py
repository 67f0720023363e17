"""`replicator bench stream`: what the change stream delivers, and what it costs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from replicator.bench.change_stream import ChangeStreamReport, measure_change_stream
from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_json, verdict


def stream(
    backlog: Annotated[int, typer.Option(min=10_000, help="Changes to publish at once.")] = 200_000,
    rate: Annotated[int, typer.Option(min=100, help="Writes a second while the lag is measured.")] = 5_000,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured, in turn.")] = 3,
    json: options.Json = False,
) -> None:
    """Measure the change stream: the rate of publishing, the lag of a consumer, and the throughput of the leader.

    Example: replicator bench stream --rounds 5
    """
    with ConsoleProgress(errors) as progress:
        password = options.environment_password()
        report = measure_change_stream(backlog, rate, seconds, rounds, password=password, progress=progress)
    if json:
        print_json({**asdict(report), "met": report.met})
        return
    console.print(draw_stream(report))


def draw_stream(report: ChangeStreamReport) -> Table:
    table = Table("", "", title=f"{report.machine}, {report.rounds} rounds", show_header=False)
    table.add_row("changes published a second, of a backlog", f"{report.published_per_s:,.0f}")
    table.add_row(f"lag at {report.lag_at_per_s:,.0f} writes a second: p50 ms", f"{report.lag_p50_ms:.1f}")
    table.add_row("p99 ms", f"{report.lag_p99_ms:.1f}")
    table.add_row("writes a second at the leader, change stream disabled", f"{report.leader_per_s:,.0f}")
    table.add_row("enabled", f"{report.leader_publishing_per_s:,.0f}")
    table.add_row("cost", f"{report.cost:.1%}")
    for what, met in report.met.items():
        table.add_row(what, verdict(met))
    return table
