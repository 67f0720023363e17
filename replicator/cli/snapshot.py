"""`replicator snapshot`: copies of a store, each at an offset of the log."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from replicator.cli import options, snapshot_open
from replicator.cli.output import (
    ConsoleProgress,
    console,
    count,
    errors,
    plain_table,
    print_json,
    print_line,
    print_result,
    print_whole,
)
from replicator.config import DEFAULT_KEEP
from replicator.errors import SnapshotError
from replicator.intervals import UNFINISHED_UPLOAD_S
from replicator.local import snapshots
from replicator.local.admin_client import TakenSnapshot, find_cluster
from replicator.local.folder import ClusterFolder
from replicator.local.operations import take_snapshot
from replicator.node.snapshots import ListedSnapshot
from replicator.snapshots.listing import listed
from replicator.snapshots.repository import FailedVerification, Verification

app = typer.Typer(help="Take, verify and restore snapshots.", no_args_is_help=True)
app.command("open")(snapshot_open.open_)

Name = Annotated[str, typer.Argument(help="The name of a snapshot, see `snapshot list`.")]
Newest = Annotated[str | None, typer.Argument(help="The name of a snapshot; by default the newest of the cluster.")]


@app.command()
def take(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    node: Annotated[str | None, typer.Option(help="The node; by default a follower that has caught up.")] = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Copy the store of a node, which keeps serving, to the repository.

    Example: replicator snapshot take
    """
    admin = find_cluster(dir, connect, password)
    with ConsoleProgress(errors if json else console) as progress:
        taken = take_snapshot(admin, node, progress)
    if json:
        print_json(taken.as_json())
    else:
        print_line(describe_snapshot(taken))


def describe_snapshot(taken: TakenSnapshot) -> str:
    manifest = taken.manifest
    return (
        f"snapshot {manifest.name} at offset {manifest.offset}: {count(manifest.entries, 'entry', 'entries')}, "
        f"{manifest.bytes} bytes in {taken.repository}"
    )


@app.command("list")
def list_(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    repository: options.RepositoryUrl = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """List the snapshots, those of the cluster first, and of each cluster the newest first.

    With --connect a node is asked, otherwise the repository is read.

    Example: replicator snapshot list --json
    """
    problems: list[SnapshotError] = []
    if connect is not None:
        found = find_cluster(dir, connect, password).any_node().list_snapshots()
    else:
        cluster = ClusterFolder(dir).load().name if ClusterFolder(dir).exists() else None
        found = listed(options.open_repository(dir, repository), on_problem=problems.append, cluster=cluster)
    if json:
        print_json([it.as_json() for it in found])
        return
    columns = ("snapshot", "offset", "entries", "bytes", "digest", "taken", "verified")
    shows_cluster = len({it.manifest.cluster for it in found}) > 1  # also those from which this one was restored
    table = plain_table(*(("cluster",) if shows_cluster else ()), *columns)
    for it in found:
        manifest = it.manifest
        table.add_row(
            *((manifest.cluster,) if shows_cluster else ()),
            manifest.name,
            str(manifest.offset),
            str(manifest.entries),
            str(manifest.bytes),
            manifest.digest[:12],
            _moment(manifest.taken_at_ms),
            _verified(it),
        )
    print_whole(table)
    if not found:
        errors.print("there is no snapshot: `replicator snapshot take` takes one", markup=False, highlight=False)
    for problem in problems:
        errors.print(str(problem), markup=False, highlight=False)


@app.command()
def show(
    name: Newest = None,
    dir: options.Dir = options.DEFAULT_DIR,
    repository: options.RepositoryUrl = None,
    json: options.Json = False,
) -> None:
    """Show what is known of a snapshot.

    Example: replicator snapshot show
    """
    opened = options.open_repository(dir, repository)
    cluster = ClusterFolder(dir).load().name if repository is None else None
    stored = opened.get(name) if name is not None else snapshots.newest(opened, cluster)
    verification = opened.verification(stored.name)
    fields = {
        **asdict(stored.manifest),
        "parts": len(stored.parts),
        "verified_at_ms": verification.verified_at_ms if isinstance(verification, Verification) else None,
        "verified_by": verification.by if isinstance(verification, Verification) else None,
    }
    if isinstance(verification, FailedVerification):
        fields |= {
            "verification_failed_at_ms": verification.failed_at_ms,
            "verification_failed_by": verification.by,
            "failure": verification.failure,
        }
    if json:
        print_json(fields)
        return
    table = plain_table("", "")
    table.show_header = False
    for label, value in fields.items():
        is_time = label.endswith("_at_ms") and isinstance(value, int)
        table.add_row(
            label.removesuffix("_ms"), _moment(value) if is_time else str(value if value is not None else "-")
        )
    print_whole(table)


@app.command()
def verify(
    name: Newest = None,
    dir: options.Dir = options.DEFAULT_DIR,
    repository: options.RepositoryUrl = None,
    bootstrap: options.KafkaBootstrap = None,
    cluster: options.KafkaCluster = None,
    config: options.KafkaConfig = None,
    json: options.Json = False,
) -> None:
    """Restore a snapshot elsewhere, and compare it with its manifest and with the log. Exit code 1 if it differs.

    Example: replicator snapshot verify
    """
    kafka = options.find_kafka(dir, bootstrap, cluster, config)
    opened = options.open_repository(dir, repository)
    stored = opened.get(name) if name is not None else snapshots.newest(opened, kafka.cluster)
    checks = []
    with ConsoleProgress(errors if json else console) as progress:
        progress.step(f"verifying snapshot {stored.name}")
        for check in snapshots.verify(opened, stored, kafka.cluster, kafka.bootstrap, kafka.security, progress):
            checks.append(check)
            if not json:
                progress.done(f"{'ok    ' if check.passed else 'FAILED'} {check.what}: {check.detail}")
    passed = all(check.passed for check in checks)
    fields = {"snapshot": stored.name, "verified": passed, "checks": [asdict(check) for check in checks]}
    print_result(f"snapshot {stored.name} is {'verified' if passed else 'NOT verified'}", fields, json=json)
    if not passed:
        raise typer.Exit(1)


@app.command()
def restore(
    name: Name,
    store: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="The folder of a node that does not run.")],
    dir: options.Dir = options.DEFAULT_DIR,
    repository: options.RepositoryUrl = None,
    json: options.Json = False,
) -> None:
    """Replace the store of a node that does not run. When the node is started, it reads the log from there on.

    Example: replicator snapshot restore 00000000000000000049-06a8f67a --to /var/lib/replicator
    """
    opened = options.open_repository(dir, repository)
    stored = opened.get(name)
    with ConsoleProgress(errors if json else console) as progress:
        snapshots.restore_node(opened, stored, store, progress)
    text = f"restored snapshot {name} to {store}: the node reads the log from offset {stored.manifest.offset + 1}"
    print_result(text, {"snapshot": name, "folder": str(store), "offset": stored.manifest.offset}, json=json)


@app.command()
def prune(
    keep: Annotated[int, typer.Option(min=1, help="How many verified snapshots to keep.")] = DEFAULT_KEEP,
    keep_s: Annotated[int, typer.Option(min=0, help="Also keep those that are younger, in seconds.")] = 0,
    unfinished_s: Annotated[
        int, typer.Option(min=0, help="Delete uploads that were not completed, and are older than so many seconds.")
    ] = UNFINISHED_UPLOAD_S,
    dir: options.Dir = options.DEFAULT_DIR,
    repository: options.RepositoryUrl = None,
    cluster: options.KafkaCluster = None,
    json: options.Json = False,
) -> None:
    """Delete old snapshots. While fewer than --keep are verified, and if none is newer than a verified one, they stay.

    Example: replicator snapshot prune --keep 2
    """
    opened = options.open_repository(dir, repository)
    of_cluster = cluster or ClusterFolder(dir).load().name
    names = snapshots.prune(opened, of_cluster, keep, keep_s, unfinished_s)
    print_result(
        "\n".join([f"deleted snapshot {name}" for name in names]) or "there is nothing to delete",
        {"deleted": names},
        json=json,
    )


@app.command()
def delete(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also the only verified one of its log.")] = False,
    dir: options.Dir = options.DEFAULT_DIR,
    repository: options.RepositoryUrl = None,
    json: options.Json = False,
) -> None:
    """Delete one snapshot, for example a damaged one.

    Example: replicator snapshot delete 00000000000000000049-06a8f67a
    """
    snapshots.delete(options.open_repository(dir, repository), name, force=force)
    print_result(f"deleted snapshot {name}", {"deleted": [name]}, json=json)


def _verified(listed: ListedSnapshot) -> str:
    if listed.failure:
        return "failed"
    return "no" if listed.verified_at_ms is None else _moment(listed.verified_at_ms)


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
