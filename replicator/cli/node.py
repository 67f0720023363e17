"""`replicator node`: one node."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from replicator.assembly import run_node
from replicator.cli import options
from replicator.cli.output import console
from replicator.config import load
from replicator.local.admin_client import find_cluster
from replicator.local.folder import ClusterFolder
from replicator.local.waiting import wait_ready

app = typer.Typer(help="Run, start and stop one node.", no_args_is_help=True)

READY_S = 600
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@app.command()
def run(
    id: Annotated[str | None, typer.Option(help="The node's name, unique in its cluster.")] = None,
    cluster: Annotated[str | None, typer.Option(help="The cluster's name: its log is the topic NAME.wal.")] = None,
    bootstrap: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Kafka.")] = None,
    dir: Annotated[Path | None, typer.Option(help="The node's folder.")] = None,
    resp: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to serve Redis clients.")] = None,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to serve HTTP.")] = None,
    advertise: Annotated[str | None, typer.Option(metavar="HOST", help="The host that others reach it by.")] = None,
    priority: Annotated[int | None, typer.Option(help="Lower leads sooner.")] = None,
    snapshots: Annotated[Path | None, typer.Option(help="Where snapshots go.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with sections node, kafka and timing.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run a node in the foreground until SIGTERM; what a container starts.

    Each setting may also stand in the file, or in the environment as REPLICATOR_NODE_ID, REPLICATOR_NODE_PASSWORD,
    REPLICATOR_KAFKA_BOOTSTRAP, REPLICATOR_KAFKA_SECURITY_PROTOCOL, REPLICATOR_TIMING_LEASE_MS, ….

    Example: replicator node run --id n1 --cluster shop --bootstrap kafka:9092 --dir /var/lib/replicator
    """
    logging.basicConfig(stream=sys.stderr, level=log_level.upper(), format=LOG_FORMAT)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    node = {
        "id": id,
        "cluster": cluster,
        "dir": dir,
        "resp": resp,
        "http": http,
        "advertise": advertise,
        "priority": priority,
        "snapshots": snapshots,
    }
    settings = load(config, os.environ, {"node": node, "kafka": {"bootstrap": bootstrap}})
    uvloop.run(run_node(settings))


@app.command()
def start(
    id: Annotated[str, typer.Argument(help="A node of this cluster.")], dir: options.Dir = options.DEFAULT_DIR
) -> None:
    """Start a node of this cluster in the background, and return when it has caught up.

    Example: replicator node start n2
    """
    folder = ClusterFolder(dir)
    cluster = folder.load()
    entry = cluster.node(id)
    started = folder.start_node(cluster, entry)
    wait_ready(folder, find_cluster(dir, None, options.environment_password()), [entry], READY_S)
    console.print(f"{id} serves" if started else f"{id} ran already")


@app.command()
def stop(
    id: Annotated[str, typer.Argument(help="A node of this cluster.")], dir: options.Dir = options.DEFAULT_DIR
) -> None:
    """Stop a node of this cluster; it stays a member.

    Example: replicator node stop n2
    """
    folder = ClusterFolder(dir)
    folder.load().node(id)
    console.print(f"stopped {id}" if folder.stop_node(id) else f"{id} did not run")
