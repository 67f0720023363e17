"""`replicator simulate`: a simulated cluster with faults, from a seed."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from replicator.cli import options, simulate_spread
from replicator.records.types import WriteMode
from replicator.testing.nemesis import EVENTS
from replicator.testing.simulation import SimulationPlan, run

app = typer.Typer()
app.command("spread")(simulate_spread.spread)


@app.callback(invoke_without_command=True)
def simulate(
    context: typer.Context,
    seed: Annotated[int, typer.Option(help="Seed of the history.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="How long faults occur, in callbacks of the event loop.")] = 4000,
    nodes: Annotated[int, typer.Option(min=1, max=9, help="Number of nodes.")] = 3,
    writes: Annotated[
        WriteMode | None,
        typer.Option(
            parser=options.choice(WriteMode),
            metavar=options.choices(WriteMode),
            help="The write mode; by default the seed decides.",
        ),
    ] = None,
    loss: Annotated[
        bool | None,
        typer.Option("--loss/--no-loss", help="Whether Kafka loses acknowledged records; by default the seed decides."),
    ] = None,
    idle: Annotated[
        bool, typer.Option("--idle", help="Clients pause for long, and leaders are idle meanwhile.")
    ] = False,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Followers receive records from the leader or from each other.")
    ] = False,
    gossip: Annotated[
        bool,
        typer.Option(
            "--gossip", help="Followers fetch some ranges of the log from Kafka, and receive the rest from others."
        ),
    ] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Clients execute SQL statements, too, and the log has commands.")
    ] = False,
    events: Annotated[
        str | None,
        typer.Option(
            help="Only these fault events, separated by commas; by default the seed decides. One or more of: "
            f"{', '.join(EVENTS)}."
        ),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Print every event.")] = False,
) -> None:
    """Simulate a cluster with faults in virtual time, and check its guarantees; a seed always gives the same history.

    It runs the real nodes, stores and log adapter on simulated Kafka brokers that delay, lose and repeat appends, and
    are deposed, with crashes and pauses. Exit code 1 if a guarantee was violated.

    Example: replicator simulate --seed 7 --steps 4000 --trace
    """
    if context.invoked_subcommand is not None:
        return
    plan = SimulationPlan(
        seed,
        steps,
        nodes,
        writes=writes,
        loss=loss,
        idle=idle,
        cascade=cascade,
        gossip=gossip,
        sql=sql,
        events=_parsed(events),
    )
    logging.disable(logging.CRITICAL)  # nodes log every fault
    report = run(plan, print if trace else lambda line: None)
    print(report)
    if report.problems:
        raise typer.Exit(1)


def _parsed(events: str | None) -> tuple[str, ...]:
    """Raises `typer.BadParameter`."""
    names = tuple(name.strip() for name in events.split(",")) if events else ()
    if unknown := [name for name in names if name not in EVENTS]:
        raise typer.BadParameter(
            f"{unknown[0]!r} is not a kind of fault event: use some of {', '.join(EVENTS)}", param_hint="--events"
        )
    return names
