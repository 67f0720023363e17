"""`replicator node`: one node."""

from __future__ import annotations

import faulthandler
import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_result
from replicator.config import NodeConfig, load
from replicator.errors import ReplicatorError
from replicator.local.cluster import LocalCluster
from replicator.logging_setup import LogFormat, LogLevel, set_up
from replicator.protocol import timing
from replicator.server.service_manager import ServiceManager

app = typer.Typer(help="Run, start and stop one node.", no_args_is_help=True)


STDERR = 2  # its file descriptor

logger = logging.getLogger(__name__)


@app.command()
def run(
    id: Annotated[str | None, typer.Option(help="The node's name, unique in its cluster.")] = None,
    cluster: Annotated[str | None, typer.Option(help="The cluster's name; its log is the topic NAME.wal.")] = None,
    bootstrap: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address of Kafka.")] = None,
    dir: Annotated[Path | None, typer.Option(help="The node's folder.")] = None,
    resp: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to listen for Redis clients.")] = None,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to listen for HTTP.")] = None,
    advertise: Annotated[
        str | None, typer.Option(metavar="HOST", help="The host that others connect to; required to listen at 0.0.0.0.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Nodes with a lower number are preferred as leader.")] = None,
    upstream: Annotated[
        str | None,
        typer.Option(metavar="leader|auto|gossip|ID", help="Where the node receives records from."),
    ] = None,
    snapshots: Annotated[
        str | None, typer.Option(metavar="URL", help="The repository of snapshots: a folder, or s3://bucket/prefix.")
    ] = None,
    procedures: Annotated[str | None, typer.Option(metavar="FILE", help="The procedures in Python.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with sections node, kafka and timing.")] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            parser=options.choice(LogLevel),
            metavar=options.choices(LogLevel),
            help="The least severe messages that are logged; by default info.",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(
            parser=options.choice(LogFormat),
            metavar=options.choices(LogFormat),
            help="How messages are written to stderr: lines of text, the default, or JSON, one object a line.",
        ),
    ] = None,
) -> None:
    """Run a node in the foreground until SIGTERM, for instance in a container or as a service of systemd.

    Each setting can also be in the file, or in the environment as REPLICATOR_NODE_ID, REPLICATOR_NODE_PASSWORD,
    REPLICATOR_KAFKA_BOOTSTRAP, REPLICATOR_KAFKA_SECURITY_PROTOCOL, REPLICATOR_TIMING_READ_MS, ….

    Example: replicator node run --id n1 --cluster shop --bootstrap kafka:9092 --dir /var/lib/replicator
    """
    faulthandler.enable(STDERR)  # a store whose file is truncated while it is open ends the process (SIGBUS): say so
    node: dict[str, Any] = {
        "id": id,
        "cluster": cluster,
        "dir": dir,
        "resp": resp,
        "http": http,
        "advertise": advertise,
        "priority": priority,
        "upstream": upstream,
        "procedures": procedures,
        "log_level": log_level,
        "log_format": log_format,
    }
    kafka: dict[str, Any] = {"bootstrap": bootstrap}
    given = {"node": node, "kafka": kafka, "snapshots": {"repository": snapshots}}
    settings = load(config, os.environ, given, timing_names=timing.SETTINGS)
    set_up(settings.logs, settings.node.cluster, settings.node.id)
    _serve(settings)


def _serve(settings: NodeConfig) -> None:
    """Raises `ReplicatorError`, or logs it, as JSON."""
    import uvloop

    from replicator.assembly import run_node  # takes long, and the other commands do not need it

    try:
        uvloop.run(run_node(settings, ServiceManager.taken_from(os.environ)))
    except ReplicatorError as error:
        if settings.node.log_format is LogFormat.TEXT:
            raise
        logger.critical("%s", error)
        raise typer.Exit(1) from None


@app.command()
def start(
    id: Annotated[str, typer.Argument(help="A node of this cluster.")],
    dir: options.Dir = options.DEFAULT_DIR,
    json: options.Json = False,
) -> None:
    """Start a node of this cluster in the background, and return when it has caught up.

    Example: replicator node start n2
    """
    with ConsoleProgress(errors if json else console) as progress:
        started = LocalCluster(dir, options.environment_password(), progress).start_node(id)
    text = f"{id} serves" if started else f"{id} was already running"
    print_result(text, {"node": id, "started": started}, json=json)


@app.command()
def stop(
    id: Annotated[str, typer.Argument(help="A node of this cluster.")],
    dir: options.Dir = options.DEFAULT_DIR,
    json: options.Json = False,
) -> None:
    """Stop a node of this cluster; it stays a member.

    Example: replicator node stop n2
    """
    stopped = LocalCluster(dir).stop_node(id)
    text = f"stopped {id}" if stopped else f"{id} was not running"
    print_result(text, {"node": id, "stopped": stopped}, json=json)
