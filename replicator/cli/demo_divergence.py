"""`replicator demo divergence`: what would happen without the tape of nondeterministic calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, plain_table, print_json, print_whole
from replicator.testing.divergence import LEADER, DivergenceReport, ReplicaOutcome, demonstrate_divergence


def divergence(
    commands: Annotated[int, typer.Option(min=100, help="Number of commands that are executed.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of the commands.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many different entries of a table are named.")] = 3,
    json: options.Json = False,
) -> None:
    """Execute commands with random() and now() at replicas, with and without the tape in the log, and compare them.

    The log has the commands of a leader. Two replicas repeat the recorded results of nondeterministic calls, as the
    replicas of a cluster do; two make the calls themselves. A fifth of the commands, the first ones, make no such call.
    Everything runs in this process. Exit code 1 unless exactly the replicas without the tape differ.

    Example: replicator demo divergence --commands 100000
    """
    with ConsoleProgress(errors if json else console) as progress:
        report = demonstrate_divergence(commands, seed, limit, progress)
    if json:
        print_json({"as_expected": report.is_as_expected, **asdict(report)})
    else:
        print_whole(*draw_divergence(report))
    if not report.is_as_expected:
        raise typer.Exit(1)


def draw_divergence(report: DivergenceReport) -> Iterator[RenderableType]:
    ids = [it.id for it in report.replicas]
    headings = (f"{it.id}, {'with the tape' if it.has_tape else 'no tape'}" for it in report.replicas)
    table = plain_table("checkpoint", "commands", LEADER, *headings)
    for number, it in enumerate(report.checkpoints, 1):
        expected = it.digests[LEADER]
        digests = (Text(it.digests[id][:12], "green" if it.digests[id] == expected else "red") for id in ids)
        table.add_row(str(number), f"{it.commands:,}", expected[:12], *digests)
    yield table
    for replica in report.replicas:
        yield from _describe(replica)


def _describe(replica: ReplicaOutcome) -> Iterator[RenderableType]:
    if replica.found_at is None:
        yield Text.assemble(f"{replica.id}: ", ("equal", "bold green"), " to the leader at each checkpoint")
        return
    yield Text.assemble(f"{replica.id}: ", ("differs", "bold red"), f", found at checkpoint {replica.found_at}: ")
    yield f"  {replica.problem}"
    yield f"  {replica.other_changes:,} commands changed more or fewer entries than at the leader"
    names = (f"{it.table} {it.row}{f' {it.field}' if it.field else ''}" for it in replica.entries)
    yield f"  {replica.differing:,} entries differ at the end, such as {', '.join(names)}"
