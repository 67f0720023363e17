"""`replicator cluster`: all nodes of a cluster on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, errors, print_json, print_line, print_whole
from replicator.cli.status import describe_policy, describe_timing, draw
from replicator.errors import ConfigError
from replicator.local.admin_client import find_cluster
from replicator.local.cluster import LocalCluster
from replicator.local.cluster_options import DEFAULT_BASE_PORT, DEFAULT_NAME
from replicator.local.operations import change_timing, changed_policy, set_policy
from replicator.local.summary import summarise
from replicator.records.types import Mode, Policy, Replication, Timing, WriteMode

app = typer.Typer(
    help="Start, stop and restore a cluster on this machine; show and change the policy and the timing of any cluster.",
    no_args_is_help=True,
)


@app.command()
def up(
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="Number of nodes: n1, n2, … By default 3, or the nodes that the cluster already has."
        ),
    ] = None,
    dir: options.Dir = options.DEFAULT_DIR,
    bootstrap: options.Bootstrap = None,
    base_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=60000,
            help=f"n1's port for Redis clients, by default {DEFAULT_BASE_PORT}; its HTTP port is 1000 higher.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help=f"The cluster's name, by default {DEFAULT_NAME}; its log is the topic NAME.wal."),
    ] = None,
    snapshots: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The repository of snapshots: a folder, or s3://bucket/prefix."),
    ] = None,
    procedures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The procedures in Python; nodes that are started or added later have them, too. Nodes that run have "
            "to be restarted: this is printed.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Start a cluster in the background, and return when all nodes serve.

    If the cluster exists, start its nodes that are not running; --nodes adds nodes, and removes none. Other options
    must then be left out or be the same. --bootstrap, --snapshots and --procedures may change while no node runs.

    Example: replicator cluster up --nodes 3 --dir ./demo
    """
    with ConsoleProgress(errors if json else console) as progress:
        cluster = LocalCluster(dir, options.environment_password(), progress)
        cluster.up(
            nodes, bootstrap=bootstrap, base_port=base_port, name=name, snapshots=snapshots, procedures=procedures
        )
    summary = summarise(cluster.admin)
    if json:
        print_json(summary.as_json())
    else:
        print_whole(*draw(summary))


@app.command()
def policy(
    wait_for: Annotated[
        str | None,
        typer.Argument(metavar="[all|quorum:K|named:ID,…]", help="The members whose acks a write waits for."),
    ] = None,
    write: Annotated[
        WriteMode | None,
        typer.Option(
            parser=options.choice(WriteMode),
            metavar=options.choices(WriteMode),
            help="When a write is answered; suspend and invalidate make reads at followers linearizable.",
        ),
    ] = None,
    replicate: Annotated[
        Replication | None,
        typer.Option(
            parser=options.choice(Replication),
            metavar=options.choices(Replication),
            help="What the log has of a write: its changes, the command that made them, or the smaller of both.",
        ),
    ] = None,
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Set which acks a write waits for, and what the log has of it; without arguments, show both.

    What is not given stays.

    async: once it is in the log. sync: once it is also in the stores of the sync members. suspend, invalidate: as sync,
    and once no member can return the old value any more.

    Example: replicator cluster policy quorum:1 --write sync
    Example: replicator cluster policy --replicate mixed
    """
    admin = find_cluster(dir, connect, password)
    if wait_for is not None or write is not None or replicate is not None:
        current = admin.leader().status().policy or Policy()
        set_policy(admin, changed_policy(current, wait_for, write, replicate))
    status = admin.leader().status()
    current = status.policy or Policy()
    if json:
        print_json(asdict(current))
    else:
        sync = [member.node for member in status.members if member.mode == Mode.SYNC]
        print_line(describe_policy(current, sync, status.node.id))


def _setting(name: str) -> Any:
    """An option to change this field of `Timing`."""
    text = get_type_hints(Timing, include_extras=True)[name].__metadata__[0]
    return typer.Option(min=0, metavar="MS", show_default=False, help=text)


@app.command()
def timing(
    heartbeat_ms: Annotated[int | None, _setting("heartbeat_ms")] = None,
    lease_ms: Annotated[int | None, _setting("lease_ms")] = None,
    election_ms: Annotated[int | None, _setting("election_ms")] = None,
    step_ms: Annotated[int | None, _setting("step_ms")] = None,
    jitter_ms: Annotated[int | None, _setting("jitter_ms")] = None,
    follower_lease_ms: Annotated[int | None, _setting("follower_lease_ms")] = None,
    sync_ms: Annotated[int | None, _setting("sync_ms")] = None,
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Change the timing that all nodes follow; without options, show it.

    docs/configuration.md describes the settings, and which of them limit each other. Those that are not given stay.

    Example: replicator cluster timing --lease-ms 1200 --election-ms 1500
    """
    settings = {
        "heartbeat_ms": heartbeat_ms,
        "lease_ms": lease_ms,
        "election_ms": election_ms,
        "step_ms": step_ms,
        "jitter_ms": jitter_ms,
        "follower_lease_ms": follower_lease_ms,
        "sync_ms": sync_ms,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    admin = find_cluster(dir, connect, password)
    if given:
        change_timing(admin, given)
    current = admin.leader().status().timing
    if json:
        print_json(current and asdict(current))
    else:
        print_line(describe_timing(current))


@app.command()
def restore(
    snapshot: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="A snapshot of `replicator snapshot list`; by default the newest before --to-offset or --to-time.",
            show_default=False,
        ),
    ] = None,
    to_offset: Annotated[
        int | None,
        typer.Option("--to-offset", min=0, help="Also apply the log up to this offset.", show_default=False),
    ] = None,
    to_time: Annotated[
        str | None,
        typer.Option(
            "--to-time",
            metavar="TIME",
            help="Also apply the log up to this time: 10m (ago) or 2026-01-31T12:00.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The name of the restored cluster; by default the present one and a number, such as shop-2."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Complete a restore that was interrupted.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Give up a restore that was interrupted.")] = False,
    dir: options.Dir = options.DEFAULT_DIR,
) -> None:
    """Continue from an earlier point: a snapshot, or a later offset or time (point-in-time recovery).

    The nodes must be stopped. The restored cluster has another name and a new log; the former log ends, and is kept.
    docs/recovery.md describes it.

    Example: replicator cluster restore --snapshot 00000000000000001520-06a8f67a --to-time 2026-01-31T12:00
    """
    from replicator.local.restore import LocalRestore  # takes long, and the other commands do not need it

    with ConsoleProgress() as progress:
        restoring = LocalRestore(dir, options.environment_password(), progress)
        if resume or abort:
            plan = restoring.pending()
            if plan is None:
                raise ConfigError(f"no restore was interrupted in {dir}")
            if abort:
                restoring.abort(plan)
                print_line(f"gave up the restore: the cluster is {plan.former}, as before")
                return
        else:
            target = options.parse_target(to_offset, to_time, "--to-time")
            if snapshot is None and target is None:
                raise typer.BadParameter(
                    "name a snapshot (see `replicator snapshot list`), or a point with --to-offset or --to-time",
                    param_hint="--snapshot",
                )
            plan = restoring.plan(snapshot, target, name)
            restoring.check(plan)
        for sentence in restoring.describe(plan):
            progress.notice(f"- {sentence}")
        if not yes:
            typer.confirm("Continue?", abort=True)
        restoring.run(plan)
        print_line(f"cluster {plan.name} is restored: `replicator cluster up` starts its nodes")


@app.command()
def down(
    dir: options.Dir = options.DEFAULT_DIR,
    purge: Annotated[bool, typer.Option("--purge", help="Also delete all data: the topics and the folder.")] = False,
) -> None:
    """Stop all nodes, and the Kafka that was started with them. With --purge, it is no error if the folder is gone.

    Example: replicator cluster down --purge
    """
    with ConsoleProgress() as progress:
        LocalCluster(dir, progress=progress).down(purge=purge)
