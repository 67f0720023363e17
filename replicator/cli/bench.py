"""`replicator bench`: throughput, memory and replay."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from replicator.bench.benchmark import BenchmarkReport, run_benchmark
from replicator.cli import (
    bench_followers,
    bench_modes,
    bench_scaling,
    bench_snapshots,
    bench_sql,
    bench_stream,
    options,
)
from replicator.cli.output import ConsoleProgress, console, errors, print_json, print_line, verdict

app = typer.Typer()
app.command("modes")(bench_modes.modes)
app.command("followers")(bench_followers.followers)
app.command("stream")(bench_stream.stream)
app.command("snapshots")(bench_snapshots.snapshots)
app.command("scaling")(bench_scaling.scaling)
app.command("sql")(bench_sql.sql)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests of the largest load in each round.")] = 100_000,
    writes: Annotated[
        int, typer.Option(min=10_000, help="Writes during which the leader's memory is measured.")
    ] = 2_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured, in turn.")] = 3,
    out: Annotated[Path, typer.Option(help="File for the JSON.")] = Path("bench.json"),
    bootstrap: options.Bootstrap = None,
    json: options.Json = False,
) -> None:
    """Measure reads, writes, replay and memory, next to raw Kafka, raw LMDB and Redis in the same run.

    Figures are medians of the rounds, with the lowest and the highest rate.

    Example: replicator bench --rounds 5 --requests 50000 --writes 200000
    """
    if context.invoked_subcommand is not None:
        return
    options.check_writable("--out", out)
    with ConsoleProgress(errors if json else console) as progress:
        report = run_benchmark(
            requests, writes, rounds, bootstrap=bootstrap, password=options.environment_password(), progress=progress
        )
    out.write_text(json_format.dumps(report.as_json(), indent=2) + "\n")
    if json:
        print_json(report.as_json())
        return
    for table in (_draw_raw(report), _draw_figures(report), _draw_cpu(report), _draw_floors(report)):
        console.print(table)
    print_line(_describe_memory(report))
    print_line(f"written to {out}")


def _draw_raw(report: BenchmarkReport) -> Table:
    table = Table("raw", "", title=f"{report.machine}, {report.rounds} rounds")
    for name, value in report.raw.items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}" if value < 100 else f"{value:,.0f}")
    return table


def _draw_figures(report: BenchmarkReport) -> Table:
    peers = {(figure.command, figure.load): figure for figure in report.redis}
    table = Table("", title="requests per second: median, lowest and highest")
    for heading in ("", "range", "p50 ms", "p99 ms", "Redis", "p50 ms"):
        table.add_column(heading, justify="right")
    for figure in report.ours:
        peer = peers.get((figure.command, figure.load))
        redis = (f"{peer.per_s:,.0f}", f"{peer.p50_ms:.2f}") if peer else ("", "")
        rates = (f"{figure.per_s:,.0f}", f"{figure.lowest_per_s:,.0f}-{figure.highest_per_s:,.0f}")
        times = (f"{figure.p50_ms:.2f}", f"{figure.p99_ms:.2f}")
        table.add_row(f"{figure.command}, {figure.load}", *rates, *times, *redis)
    return table


def _draw_cpu(report: BenchmarkReport) -> Table:
    processes = list(report.ours[0].cpu_us)
    table = Table("", title="CPU time of a request, us")
    for process in processes:
        table.add_column(process, justify="right")
    for figure in report.ours:
        table.add_row(f"{figure.command}, {figure.load}", *(f"{figure.cpu_us[it]:.1f}" for it in processes))
    return table


def _draw_floors(report: BenchmarkReport) -> Table:
    table = Table("floor", "ratio", "at least", "")
    for it in report.floors:
        table.add_row(f"{it.what} / {it.per}", f"{it.ratio:,.3f}", f"{it.floor:,.3f}", verdict(it.met))
    return table


def _describe_memory(report: BenchmarkReport) -> Text:
    memory = report.memory
    megabytes = ", ".join(f"{sample >> 20}" for sample in memory.bytes)
    flat = ("flat", "green") if memory.flat else ("not flat", "red")
    return Text.assemble(f"memory of the leader over {memory.writes:,} writes, MiB: {megabytes} (", flat, ")")
