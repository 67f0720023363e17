"""`replicator bench followers`: what followers cost the leader and the broker."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from replicator.bench.followers import FollowersReport, measure_followers
from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_json, verdict


def followers(
    few: Annotated[int, typer.Option(min=1, help="Followers at first.")] = 1,
    many: Annotated[int, typer.Option(min=2, help="Followers afterwards.")] = 8,
    requests: Annotated[int, typer.Option(min=1_000, help="Writes in each round.")] = 50_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often many are measured; few twice as often.")] = 3,
    json: options.Json = False,
) -> None:
    """Measure the CPU time of a write at the leader and at Kafka, with few and with many async followers.

    Example: replicator bench followers --many 4
    """
    if many <= few:
        raise typer.BadParameter(f"it must be larger than --few ({few})", param_hint="--many")
    with ConsoleProgress(errors) as progress:
        password = options.environment_password()
        report = measure_followers(few, many, requests, rounds, password=password, progress=progress)
    if json:
        print_json(asdict(report))
        return
    console.print(draw_followers(report))


def draw_followers(report: FollowersReport) -> Table:
    processes = list(report.figures[0].cpu_us)
    table = Table(
        "followers",
        title=f"{report.machine}, {report.rounds} rounds",
        caption=Text.assemble(
            f"Kafka: {report.broker_ratio:.2f} of the time with few, at most {report.at_most:g} expected: ",
            verdict(report.met),
        ),
    )
    for heading in ("writes per second", "p50 ms", *(f"{process}: CPU us" for process in processes)):
        table.add_column(heading, justify="right")
    for it in report.figures:
        times = (f"{it.cpu_us[process]:.1f}" for process in processes)
        table.add_row(it.load, f"{it.per_s:,.0f}", f"{it.p50_ms:.2f}", *times)
    return table
