"""`replicator simulate spread`: how records spread among many followers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from replicator.cli import options
from replicator.cli.output import console, print_json, print_line
from replicator.limits import MAX_FANOUT
from replicator.position import FANOUT
from replicator.testing.spread import HOP_MS, Spread, SpreadPlan, levels, simulate_spread
from replicator.testing.spread_plot import draw_spread


def spread(
    nodes: Annotated[int, typer.Option(min=1, max=10_000, help="Number of followers.")] = 1000,
    fanout: Annotated[int, typer.Option(min=1, max=MAX_FANOUT, help="As node.fanout.")] = FANOUT,
    failed: Annotated[float, typer.Option(min=0, max=0.9, help="The share of followers that do not answer.")] = 0.0,
    ranges: Annotated[int, typer.Option(min=1, help="Number of ranges of the log, with one record each.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of times and failures.")] = 1,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write a plot to this file.")] = None,
    json: options.Json = False,
) -> None:
    """Compute how records spread in a tree and in gossip: the time, and the copies that Kafka and each node send.

    It uses the rules by which nodes choose their upstreams, but starts no nodes. A hop takes 1 ms on average.

    Example: replicator simulate spread --nodes 1000 --svg spread.svg
    """
    if svg is not None:
        options.check_writable("--svg", svg)
    plan = SpreadPlan(nodes, fanout, ranges, failed, seed)
    spreads = simulate_spread(plan)
    expected_ms = levels(nodes, fanout) * HOP_MS
    if svg is not None:
        svg.write_text(draw_spread(plan, spreads))
    if json:
        print_json({"expected_ms": expected_ms, "spreads": [_as_json(it) for it in spreads]})
        return
    table = Table("upstream", title=f"{nodes} followers, fanout {fanout}: closed form {expected_ms:g} ms")
    for heading in ("p50 ms", "p99 ms", "last ms", "copies by Kafka", "most copies by a node"):
        table.add_column(heading, justify="right")
    for it in spreads:
        times_ms = it.percentile_ms(0.5), it.percentile_ms(0.99), it.times_ms[-1]
        table.add_row(it.upstream, *(f"{value:.2f}" for value in (*times_ms, it.from_kafka, it.most_copies)))
    console.print(table)
    if svg is not None:
        print_line(f"written to {svg}")


def _as_json(spread: Spread) -> dict[str, float | str]:
    return {
        "upstream": spread.upstream,
        "p50_ms": spread.percentile_ms(0.5),
        "p99_ms": spread.percentile_ms(0.99),
        "last_ms": spread.times_ms[-1],
        "copies_by_kafka": spread.from_kafka,
        "most_copies": spread.most_copies,
    }
