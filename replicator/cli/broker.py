"""`replicator broker`: an Apache Kafka on this machine, for development."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from replicator.cli import options
from replicator.cli.output import errors, print_json, print_result, print_whole
from replicator.local.kafka import BrokerState, LocalBroker
from replicator.local.kafka.paths import default_broker_dir

app = typer.Typer(help="A real Apache Kafka on this machine, without Docker, Maven or Java.", no_args_is_help=True)

NOT_RUNNING = 3  # the exit code of service managers

BrokerDir = Annotated[Path, typer.Option("--dir", help="The broker's folder.", show_default=False)]


@app.command()
def start(
    dir: BrokerDir = default_broker_dir(),  # noqa: B008 (required by typer)
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the port of the last start, or a free one.")
    ] = None,
    heap: Annotated[str, typer.Option(help="Java's heap size.")] = "512m",
    kafka_home: Annotated[Path | None, typer.Option(help="An unpacked Kafka distribution.")] = None,
    json: options.Json = False,
) -> None:
    """Start the broker, and return when it answers. It keeps its data when it is stopped.

    Example: replicator broker start --port 9092
    """
    broker = LocalBroker(dir, port, heap, home=kafka_home)
    with errors.status("starting Kafka"):
        bootstrap = broker.start()
    print_result(f"Kafka answers at {bootstrap}", asdict(broker.status()), json=json)


@app.command()
def stop(dir: BrokerDir = default_broker_dir(), json: options.Json = False) -> None:  # noqa: B008
    """Stop the broker.

    Example: replicator broker stop
    """
    stopped = LocalBroker(dir).stop()
    print_result("stopped" if stopped else "it was not running", {"stopped": stopped}, json=json)


@app.command()
def status(dir: BrokerDir = default_broker_dir(), json: options.Json = False) -> None:  # noqa: B008
    """Show whether the broker is running, and where. Exit code 3 if it is not running.

    Example: replicator broker status --json
    """
    found = LocalBroker(dir).status()
    if json:
        print_json(asdict(found))
    else:
        shown = Table(show_header=False, box=None, pad_edge=False)
        for name, value in asdict(found).items():
            shown.add_row(name.replace("_", " "), "" if value is None else str(value))
        print_whole(shown)
    if found.state is not BrokerState.RUNNING:
        raise typer.Exit(NOT_RUNNING)
