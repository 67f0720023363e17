"""`replicator snapshot`: copies of the state, each at an offset."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from replicator.address import Address
from replicator.cli import options
from replicator.cli.output import console, print_json
from replicator.local.admin_client import SNAPSHOT_S, find_cluster

app = typer.Typer(help="Take and list snapshots.", no_args_is_help=True)


@app.command()
def take(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    node: Annotated[str | None, typer.Option(help="Which node makes it; by default a follower that has all.")] = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Let a node copy its store; it serves on meanwhile.

    Example: replicator snapshot take
    """
    client = find_cluster(dir, connect, password)
    chosen = _choose([it for it in client.statuses() if it["node"]["state"] == "serving"], node)
    with console.status(f"{chosen['node']['id']} takes a snapshot"):
        http = Address.from_record(chosen["member"]["http"])
        manifest = client.node(http).ask("POST", "/snapshots", timeout_s=SNAPSHOT_S)
    if json:
        print_json(manifest)
    else:
        console.print(
            f"snapshot {manifest['name']} at offset {manifest['offset']}: {manifest['entries']} entries, "
            f"{manifest['bytes']} bytes in {manifest['folder']}"
        )


def _choose(serving: list[dict[str, dict[str, str]]], node: str | None) -> dict[str, dict[str, str]]:
    for status in serving:
        if status["node"]["id"] == node:
            return status
    if node or not serving:
        raise typer.BadParameter(f"{node or 'no node'} serves now: see `replicator status`")
    return max(serving, key=_fitness)


def _fitness(status: dict[str, dict[str, str]]) -> tuple[bool, bool, str]:
    """A snapshotter is there for it, and a follower can better be spared than the leader."""
    node = status["node"]
    return status["member"]["mode"] == "snapshotter", node["role"] == "follower", node["applied_offset"]


@app.command("list")
def list_(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """The snapshots there are, the newest first.

    Example: replicator snapshot list --json
    """
    client = find_cluster(dir, connect, password)
    answer = client.any_node().ask("GET", "/snapshots")
    if json:
        print_json(answer["snapshots"])
        return
    shown = Table("snapshot", "offset", "entries", "bytes", "digest", "taken")
    for it in answer["snapshots"]:
        taken = datetime.fromtimestamp(it["taken_at_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        shown.add_row(it["name"], str(it["offset"]), str(it["entries"]), str(it["bytes"]), it["digest"][:12], taken)
    console.print(shown)
