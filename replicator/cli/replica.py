"""`replicator replica`: who belongs to the cluster."""

from __future__ import annotations

import shutil
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from replicator.cli import options
from replicator.cli.output import console
from replicator.errors import ConfigError, ReplicatorError, SnapshotError
from replicator.local.admin_client import ClusterClient, find_cluster
from replicator.local.folder import ClusterFolder
from replicator.local.waiting import wait_for_membership, wait_ready
from replicator.store import snapshot

app = typer.Typer(help="Add replicas to a running cluster, and take them away.", no_args_is_help=True)

READY_S = 3600
PROMOTE_S = 15.0
POLL_S = 0.1


class AskedMode(StrEnum):
    ASYNC = "async"
    SYNC = "sync"
    SNAPSHOTTER = "snapshotter"


@app.command()
def add(
    id: Annotated[str, typer.Argument(help="Its name, new in this cluster.")],
    dir: options.Dir = options.DEFAULT_DIR,
    from_snapshot: Annotated[
        bool, typer.Option("--from-snapshot", help="Begin with a snapshot instead of the start of the log.")
    ] = False,
    name: Annotated[str | None, typer.Option("--snapshot", help="Which one; by default the newest.")] = None,
    mode: Annotated[
        AskedMode, typer.Option(help="sync: writes wait for it, if the policy says so; snapshotter: serves no clients.")
    ] = AskedMode.ASYNC,
) -> None:
    """Start a new replica on this machine, and return when it has caught up and is a member.

    Example: replicator replica add n4 --from-snapshot
    """
    folder = ClusterFolder(dir)
    cluster = folder.load()
    if any(entry.id == id for entry in cluster.nodes):
        raise ConfigError(f"{id} is in this cluster already: `replicator node start {id}` starts it")
    if folder.node_dir(id).exists():
        raise ConfigError(f"{folder.node_dir(id)} is there already: move it away, or choose another name")
    cluster = cluster.with_node(id)
    if from_snapshot or name:
        manifest = snapshot.restore(_choose(folder, name), folder.node_dir(id) / "store", cluster.name)
        console.print(f"snapshot {manifest.name} at offset {manifest.offset}: reads on from {manifest.offset + 1}")
    entry = cluster.node(id)
    folder.start_node(cluster, entry)
    folder.save(cluster)
    client = find_cluster(dir, None, options.environment_password())
    wait_ready(folder, client, [entry], READY_S)
    if mode is not AskedMode.ASYNC:
        change_mode(client, id, mode)
    console.print(f"{id} serves at {entry.resp}")


def _choose(folder: ClusterFolder, name: str | None) -> Path:
    if name:
        return folder.snapshots / name
    manifests = snapshot.listed(folder.snapshots)
    if not manifests:
        raise SnapshotError(f"there is no snapshot in {folder.snapshots}: `replicator snapshot take` makes one")
    return folder.snapshots / manifests[0].name


@app.command()
def remove(
    id: Annotated[str, typer.Argument(help="A replica of this cluster.")],
    dir: options.Dir = options.DEFAULT_DIR,
    password: options.Password = "",
) -> None:
    """Make a replica no member any more, stop it, and delete its store.

    Example: replicator replica remove n4
    """
    folder = ClusterFolder(dir)
    cluster = folder.load()
    cluster.node(id)
    client = find_cluster(dir, None, password)
    if client.any_status()["node"].get("leader") == id:
        raise ConfigError(f"{id} leads: give the lead to another first, with `replicator replica promote`")
    leader = client.leader()
    if any(it["node"] == id for it in leader.status()["members"]):
        leader.ask("DELETE", f"/members/{id}")
        wait_for_membership(
            client,
            lambda status: all(it["node"] != id for it in status["members"]),
            f"{id} is still a member: try again",
        )
    folder.stop_node(id)
    folder.save(cluster.without_node(id))
    shutil.rmtree(folder.node_dir(id), ignore_errors=True)
    console.print(f"removed {id}")


@app.command()
def promote(
    id: Annotated[str, typer.Argument(help="The replica that is to lead.")],
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    force: Annotated[
        bool, typer.Option("--force", help="Without the leader's consent: it is gone for good. Waits one lease.")
    ] = False,
    password: options.Password = "",
) -> None:
    """Let another node lead; nothing is lost. Clients' writes pause for some milliseconds.

    Example: replicator replica promote n2
    """
    client = find_cluster(dir, connect, password)
    asked = client.member(id) if force else client.leader()
    asked.ask("POST", "/promote", {"node": id, "force": force}, timeout_s=PROMOTE_S)
    deadline = time.monotonic() + PROMOTE_S
    while (node := client.member(id).status()["node"])["role"] != "leader" or node["lease_left_ms"] <= 0:
        if time.monotonic() > deadline:
            raise ReplicatorError(f"{id} does not lead after {PROMOTE_S:.0f} s: see `replicator status`")
        time.sleep(POLL_S / 10)
    console.print(f"{id} leads epoch {node['epoch']}")


@app.command("set-mode")
def set_mode(
    id: Annotated[str, typer.Argument(help="A member of the cluster.")],
    mode: Annotated[AskedMode, typer.Argument(help="What it is to be.")],
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
) -> None:
    """Make a member async, sync or a snapshotter.

    Writes wait for a sync member as the policy says, once it has caught up. A snapshotter serves no clients.

    Example: replicator replica set-mode n2 sync
    """
    change_mode(find_cluster(dir, connect, password), id, mode)
    console.print(f"{id} is {mode}")


def change_mode(client: ClusterClient, id: str, mode: AskedMode) -> None:
    """Returns once it is so. Raises `ReplicatorError`."""
    client.leader().ask("PUT", f"/members/{id}/mode", {"mode": mode.value})
    wait_for_membership(
        client,
        lambda status: any((it["node"], it["mode"]) == (id, mode) for it in status["members"]),
        f"{id} is not {mode} yet: it may still be catching up, see `replicator status`",
    )
