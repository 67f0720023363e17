"""`replicator simulate`: one seeded history of a whole cluster."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from replicator.records.types import WriteMode
from replicator.testing.simulation import SimulationPlan, run


def simulate(
    seed: Annotated[int, typer.Option(help="Which history.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="How long faults go on, in callbacks of the event loop.")] = 4000,
    nodes: Annotated[int, typer.Option(min=1, max=9, help="How many nodes.")] = 3,
    writes: Annotated[WriteMode | None, typer.Option(help="What writes wait for; by default the seed decides.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Tell everything that happens.")] = False,
) -> None:
    """Play a cluster with faults in virtual time, and check what it promises; the same seed is the same history.

    The real nodes and stores, on a log that delays, loses and repeats appends, with crashes and pauses. Exit code 1
    if a promise was broken.

    Example: replicator simulate --seed 7 --steps 4000 --trace
    """
    logging.disable(logging.CRITICAL)  # nodes log every injected fault
    report = run(SimulationPlan(seed, steps, nodes, writes=writes), print if trace else lambda line: None)
    print(report)
    if report.problems:
        raise typer.Exit(1)
