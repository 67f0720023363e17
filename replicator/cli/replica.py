"""`replicator replica`: the members of a cluster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_result
from replicator.errors import ConfigError
from replicator.local.admin_client import find_cluster
from replicator.local.cluster import LocalCluster, Origin
from replicator.local.compose import ComposeReplica
from replicator.local.compose import add_replica as add_container
from replicator.local.operations import promote as promote_replica
from replicator.local.operations import remove_foreign_member
from replicator.local.operations import set_mode as set_member_mode
from replicator.position import LEADER
from replicator.records.types import Mode

app = typer.Typer(
    help="Add replicas to a running cluster, remove and promote them, and set their modes.", no_args_is_help=True
)


STOP_IT = "Now stop its process, and delete its folder: if it is started again, it becomes a member again"


class RequestedMode(StrEnum):
    """`Mode` without `joining`, which a member passes through on its way to sync."""

    ASYNC = "async"
    SYNC = "sync"
    SNAPSHOTTER = "snapshotter"


@app.command()
def add(
    id: Annotated[str, typer.Argument(help="Name of the new node.")],
    dir: options.Dir = options.DEFAULT_DIR,
    from_snapshot: Annotated[
        bool, typer.Option("--from-snapshot", help="Start from the newest snapshot, also if it is not verified yet.")
    ] = False,
    from_log: Annotated[bool, typer.Option("--from-log", help="Read the log from its beginning.")] = False,
    name: Annotated[str | None, typer.Option("--snapshot", help="Start from the snapshot of this name.")] = None,
    mode: Annotated[
        RequestedMode,
        typer.Option(
            parser=options.choice(RequestedMode),
            metavar=options.choices(RequestedMode),
            help="sync: writes wait for it, if the policy says so; snapshotter: serves no clients.",
        ),
    ] = RequestedMode.ASYNC,
    upstream: Annotated[
        str,
        typer.Option(
            metavar="leader|auto|gossip|ID",
            help="Where it receives records from: see node.upstream in docs/configuration.md.",
        ),
    ] = LEADER,
    compose: Annotated[
        bool, typer.Option("--compose", help="As a container: a service beside those of compose.yaml in this folder.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Start a new replica on this machine, and return when it has caught up and is a member.

    It starts from the newest verified snapshot and reads the log from there on. Without one, it reads all of the log.

    Example: replicator replica add n4
    """
    if from_log + from_snapshot + (name is not None) > 1:
        raise ConfigError("--from-log, --from-snapshot and --snapshot exclude each other: give one of them")
    origin = Origin.LOG if from_log else Origin.SNAPSHOT if from_snapshot else Origin.VERIFIED
    if compose:
        with ConsoleProgress(errors if json else console) as progress:
            resp = add_container(ComposeReplica(id, origin, name, Mode(mode), upstream), Path.cwd(), progress)
        print_result(f"{id} serves at {resp}", {"node": id, "mode": mode, "resp": str(resp)}, json=json)
        return
    with ConsoleProgress(errors if json else console) as progress:
        cluster = LocalCluster(dir, options.environment_password(), progress)
        entry = cluster.add_replica(id, origin=origin, snapshot_name=name, mode=Mode(mode), upstream=upstream)
    added = {"node": id, "mode": mode, "resp": str(entry.resp), "http": str(entry.http)}
    print_result(f"{id} serves at {entry.resp}", added, json=json)


@app.command()
def remove(
    id: Annotated[str, typer.Argument(help="A replica of this cluster.")],
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Remove a replica from the members, stop it, and delete its store.

    A replica that was started by `node run`, or with --connect, is only removed from the members: stop its process.

    Example: replicator replica remove n4
    """
    if connect is not None:
        remove_foreign_member(find_cluster(dir, connect, password), id)
        stopped = False
    else:
        with ConsoleProgress(errors if json else console) as progress:
            stopped = LocalCluster(dir, password, progress).remove_replica(id)
    text = f"removed {id}" if stopped else f"removed {id} from the members. {STOP_IT}"
    print_result(text, {"node": id, "stopped": stopped}, json=json)


@app.command()
def promote(
    id: Annotated[str, typer.Argument(help="The replica that becomes the leader.")],
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Without the old leader, if it is gone for good. Waits for the end of its lease."),
    ] = False,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Transfer leadership to another node. No write is lost; clients' writes pause for some milliseconds.

    Example: replicator replica promote n2
    """
    epoch = promote_replica(find_cluster(dir, connect, password), id, force=force)
    print_result(f"{id} is leader of epoch {epoch}", {"node": id, "epoch": epoch}, json=json)


@app.command("set-mode")
def set_mode(
    id: Annotated[str, typer.Argument(help="A member of the cluster.")],
    mode: Annotated[
        RequestedMode,
        typer.Argument(
            parser=options.choice(RequestedMode), metavar="MODE", help="Its new mode: async, sync or snapshotter."
        ),
    ],
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Make a member async, sync or a snapshotter.

    Writes wait for a sync member as the policy says, once it has caught up. A snapshotter serves no clients.

    Example: replicator replica set-mode n2 sync
    """
    set_member_mode(find_cluster(dir, connect, password), id, Mode(mode))
    print_result(f"{id} is {mode}", {"node": id, "mode": mode}, json=json)
