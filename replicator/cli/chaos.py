"""`replicator chaos`: what faults cost, measured on real processes under load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from replicator.chaos.broker_failover import BrokerEvent
from replicator.chaos.failover import EventKind
from replicator.chaos.failover_figures import FailoverFigures
from replicator.chaos.measure import measure_broker_failovers, measure_failovers
from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_json
from replicator.errors import ConfigError
from replicator.local.cluster import LocalCluster, temporary_cluster
from replicator.local.kafka.cluster import temporary_brokers
from replicator.local.progress import ProgressReporter

app = typer.Typer(help="Break a cluster under load, and measure the effects.", no_args_is_help=True)

NODES = 3
ALL_KINDS = ",".join(EventKind)
ALL_BROKER_EVENTS = ",".join(BrokerEvent)

Kind = TypeVar("Kind", bound=StrEnum)


@app.command()
def failover(
    runs: Annotated[int, typer.Option(min=1, help="Number of runs of each kind.")] = 50,
    kinds: Annotated[str, typer.Option(help="Kinds of failover, separated by commas.")] = ALL_KINDS,
    json: options.Json = False,
    dir: Annotated[
        Path | None, typer.Option("--dir", help="The folder of a running cluster; by default one is started.")
    ] = None,
    bootstrap: options.Bootstrap = None,
) -> None:
    """Force failovers under load: how long do writes pause, and are any lost?

    kill: kill -9 of the leader. pause: the leader is stopped for 2 s, and resumes. stall: the follower that is next by
    priority is stopped while the leader is killed. handover: `replicator replica promote`. stop: `replicator
    node stop`. Exit code 1 if an acknowledged write is missing, a rejected one is present, a read was stale, or a write
    failed in a handover.

    Example: replicator chaos failover --runs 10 --kinds kill,handover
    """
    chosen = _parse_kinds(EventKind, kinds)
    with ConsoleProgress(errors if json else console) as progress, _cluster(dir, bootstrap, progress) as cluster:
        found = measure_failovers(cluster, chosen, runs, progress)
    _report(found, json=json)


@app.command()
def brokers(
    runs: Annotated[int, typer.Option(min=1, help="Number of runs of each kind.")] = 20,
    kinds: Annotated[str, typer.Option(help="Kinds of failure, separated by commas.")] = ALL_BROKER_EVENTS,
    json: options.Json = False,
) -> None:
    """Break a Kafka of three brokers under load: how long do writes pause, is any lost, is any read stale?

    kill: kill -9 of the broker that leads the log. stop: it is stopped until another one leads, and resumes. cut: the
    same, but it is cut off from the other brokers, and clients still reach it. controller: kill -9 of the active
    controller. rolling: all brokers are restarted, one after the other. Exit code 1 if an acknowledged write is
    missing, a rejected one is present, or a linearizable read was stale.

    Example: replicator chaos brokers --runs 2 --kinds kill,cut
    """
    chosen = _parse_kinds(BrokerEvent, kinds)
    password = options.environment_password()
    with (
        ConsoleProgress(errors if json else console) as progress,
        temporary_brokers(progress) as kafka,
        temporary_cluster("chaos", NODES, bootstrap=kafka.bootstrap(), password=password, progress=progress) as cluster,
    ):
        found = measure_broker_failovers(kafka, cluster, chosen, runs, progress)
    _report(found, json=json)


def _report(found: Sequence[FailoverFigures], *, json: bool) -> None:
    broken = any(it.broken for it in found)
    if json:
        print_json({"kinds": [it.as_json() for it in found], "ok": not broken})
    else:
        console.print(_draw(found))
    if broken:
        raise typer.Exit(1)


def _parse_kinds(kinds: type[Kind], text: str) -> list[Kind]:
    """Raises `ConfigError`."""
    try:
        return [*dict.fromkeys(kinds(name.strip()) for name in text.split(","))]
    except ValueError:
        raise ConfigError(f"invalid --kinds {text!r}: expected one or more of {','.join(kinds)}") from None


@contextmanager
def _cluster(dir: Path | None, bootstrap: str | None, progress: ProgressReporter) -> Iterator[LocalCluster]:
    """The cluster in `dir`, or a temporary one. Raises `ConfigError`."""
    password = options.environment_password()
    if dir is None:
        with temporary_cluster("chaos", NODES, bootstrap=bootstrap, password=password, progress=progress) as cluster:
            yield cluster
    elif bootstrap is not None:
        raise ConfigError("the cluster in --dir already has a Kafka: leave --bootstrap out")
    else:
        cluster = LocalCluster(dir, password, progress)
        cluster.check_password()  # killed nodes are started again
        yield cluster


def _draw(found: Sequence[FailoverFigures]) -> Table:
    table = Table("kind", title="How long writes pause, in ms", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("runs", "p50", "p95", "p99", "max", "acked", "lost", "failed\ntwice", "stale\nreads"):
        table.add_column(name, justify="right")
    for it in found:
        pauses = (f"{it.pause_ms(percent):,.0f}" for percent in (50, 95, 99, 100))
        failed = _must_be_0(it.failed_twice) if it.kind is EventKind.HANDOVER else Text(f"{it.failed_twice:,}")
        faults = (_must_be_0(it.lost), failed, _must_be_0(it.stale_reads))
        table.add_row(it.kind, str(len(it.pauses_ms)), *pauses, f"{it.acknowledged:,}", *faults)
    if present := sum(it.rejected_there for it in found):
        table.caption = Text(f"{present:,} writes were rejected, but are present", "red")
    return table


def _must_be_0(number: int) -> Text:
    return Text(f"{number:,}", "red" if number else "green")
