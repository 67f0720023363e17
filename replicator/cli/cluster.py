"""`replicator cluster`: all nodes of a cluster on this machine."""

from __future__ import annotations

import shutil
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer

from replicator.cli import options
from replicator.cli.output import console, print_json
from replicator.cli.status import describe_policy, table
from replicator.errors import BrokerUnavailable, ConfigError
from replicator.local.admin_client import ClusterClient, find_cluster
from replicator.local.folder import ClusterFile, ClusterFolder, check_free
from replicator.local.waiting import wait_for_membership, wait_ready
from replicator.log.kafka.admin import delete_topics

app = typer.Typer(help="Start and stop a whole cluster on this machine.", no_args_is_help=True)

READY_S = 120


class Write(StrEnum):
    ASYNC = "async"
    SYNC = "sync"
    SUSPEND = "suspend"
    INVALIDATE = "invalidate"


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=100, help="How many nodes: n1, n2, …")] = 3,
    dir: options.Dir = options.DEFAULT_DIR,
    bootstrap: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Kafka that runs; otherwise one is started here.")
    ] = None,
    base_port: Annotated[
        int, typer.Option(min=1, max=60000, help="n1's port for Redis clients; HTTP is 1000 higher.")
    ] = 7001,
    name: Annotated[str, typer.Option(help="The cluster's name: its log is the topic NAME.wal.")] = "replicator",
) -> None:
    """Start a cluster in the background, and return when it serves.

    Started again, it starts what does not run.

    Example: replicator cluster up --nodes 3 --dir ./demo
    """
    folder = ClusterFolder(dir)
    cluster = folder.load() if folder.exists() else ClusterFile(name, "", False, base_port)
    cluster = _with_nodes(cluster, nodes)
    for entry in cluster.nodes:
        if folder.process(entry.id) is None:
            check_free(entry.resp_port)
            check_free(entry.http_port)
    if bootstrap:
        cluster = replace(cluster, bootstrap=bootstrap, own_broker=False)
    elif cluster.own_broker or not cluster.bootstrap:
        cluster = replace(cluster, own_broker=True)
        folder.save(cluster)  # from here on `down` has something to stop
        with console.status("starting Kafka"):
            cluster = replace(cluster, bootstrap=folder.broker.start())
    folder.save(cluster)
    for entry in cluster.nodes:
        folder.start_node(cluster, entry)
    client = find_cluster(dir, None, options.environment_password())
    wait_ready(folder, client, cluster.nodes, READY_S)
    console.print(table(client))


@app.command()
def policy(
    wait_for: Annotated[
        str | None, typer.Argument(metavar="[all|quorum:K|named:A,B]", help="Whose acks a write waits for.")
    ] = None,
    write: Annotated[
        Write | None, typer.Option(help="What a write waits for; suspend and invalidate make replicas linearizable.")
    ] = None,
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Say what a write waits for before it is answered; without arguments, tell it.

    async: that it is in the log. sync: that the sync members have it in their stores. suspend, invalidate: the same,
    and that no member could be read and show the old value any more.

    Example: replicator cluster policy quorum:1 --write sync
    """
    client = find_cluster(dir, connect, password)
    if wait_for is not None or write is not None:
        change_policy(client, wait_for or "all", write or Write.SYNC)
    current = client.leader().status()["policy"]
    if json:
        print_json(current)
    else:
        console.print(describe_policy(current))


def change_policy(client: ClusterClient, wait_for: str, write: Write) -> None:
    """Returns once it is in force. Raises `ConfigError`, `ReplicatorError`."""
    asked = _policy(wait_for, write)
    client.leader().ask("PUT", "/policy", asked)
    wait_for_membership(client, lambda it: it["policy"] == asked, "the policy is not in force yet: see the status")


def _policy(wait_for: str, write: Write) -> dict[str, Any]:
    """Raises `ConfigError`."""
    kind, _, rest = wait_for.partition(":")
    if kind == "quorum" and rest.isdecimal():
        return {"write": write.value, "wait_for": kind, "quorum": int(rest), "named": []}
    if kind == "named" and rest:
        return {"write": write.value, "wait_for": kind, "quorum": 0, "named": rest.split(",")}
    if wait_for == "all":
        return {"write": write.value, "wait_for": kind, "quorum": 0, "named": []}
    raise ConfigError(f"{wait_for!r} says nothing: write all, quorum:2 or named:n2,n3")


def _with_nodes(cluster: ClusterFile, count: int) -> ClusterFile:
    for index in range(1, count + 1):
        cluster = cluster.with_node(f"n{index}")
    return cluster


@app.command()
def down(
    dir: options.Dir = options.DEFAULT_DIR,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete its topics and its folder, too: all its data.")
    ] = False,
) -> None:
    """Stop all nodes, followers first, and the Kafka that was started with them.

    Example: replicator cluster down --purge
    """
    folder = ClusterFolder(dir)
    cluster = folder.load()
    for entry in reversed(cluster.nodes):
        if folder.stop_node(entry.id):
            console.print(f"stopped {entry.id}")
    if purge and not cluster.own_broker:
        try:
            delete_topics(cluster.bootstrap, cluster.name)
        except (BrokerUnavailable, ConfigError) as error:
            raise ConfigError(f"the nodes are stopped, but nothing was deleted: {error}") from error
    if cluster.own_broker and folder.broker.stop():
        console.print("stopped Kafka")
    if purge:
        shutil.rmtree(folder.dir)
        console.print(f"deleted {folder.dir}")
