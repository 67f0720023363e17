"""`replicator snapshot`: copies of a store, each at an offset of the log."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from replicator.cli import options
from replicator.cli.output import ConsoleProgress, count, plain_table, print_json, print_line, print_whole
from replicator.local.admin_client import StoredSnapshot, find_cluster
from replicator.local.operations import take_snapshot

app = typer.Typer(help="Take and list snapshots.", no_args_is_help=True)


@app.command()
def take(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    node: Annotated[str | None, typer.Option(help="The node; by default a follower that has caught up.")] = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Copy the store of a node, which keeps serving.

    Example: replicator snapshot take
    """
    admin = find_cluster(dir, connect, password)
    with ConsoleProgress() as progress:
        taken = take_snapshot(admin, node, progress)
    if json:
        print_json(taken.as_json())
    else:
        print_line(describe_snapshot(taken))


def describe_snapshot(taken: StoredSnapshot) -> str:
    manifest = taken.manifest
    return (
        f"snapshot {manifest.name} at offset {manifest.offset}: {count(manifest.entries, 'entry', 'entries')}, "
        f"{manifest.bytes} bytes in {taken.folder}"
    )


@app.command("list")
def list_(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """List the snapshots, the newest first.

    Example: replicator snapshot list --json
    """
    manifests = [it.manifest for it in find_cluster(dir, connect, password).any_node().list_snapshots()]
    if json:
        print_json([asdict(manifest) for manifest in manifests])
        return
    table = plain_table("snapshot", "offset", "entries", "bytes", "digest", "taken")
    for it in manifests:
        taken = datetime.fromtimestamp(it.taken_at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        table.add_row(it.name, str(it.offset), str(it.entries), str(it.bytes), it.digest[:12], taken)
    print_whole(table)
