"""`replicator procedure`: procedures in Python."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from replicator.cli import options
from replicator.cli.output import print_error, print_result
from replicator.errors import ConfigError
from replicator.local.admin_client import find_cluster
from replicator.local.folder import ClusterFolder
from replicator.local.procedures import explained, list_procedures
from replicator.procedures.loading import load

app = typer.Typer(help="Check files of procedures, and list the procedures of a cluster.", no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A file of procedures in Python.", show_default=False)],
    json: options.Json = False,
) -> None:
    """Check whether nodes can load a file, and print its procedures with their hashes.

    Example: replicator procedure check accounts.py
    """
    procedures = load(file)
    if not procedures:
        raise ConfigError(f"{file} has no procedures: put @procedure before the functions that clients may call")
    found = [{"name": it.name, "hash": it.hash} for it in procedures.values()]
    print_result("\n".join(f"{it['name']}  {it['hash'][:12]}" for it in found), found, json=json)


@app.command("list")
def list_(
    dir: options.Dir = options.DEFAULT_DIR,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """List the procedures of a cluster, with their states at each node.

    Those that were called are in the log. At a node, a procedure is ready, new (never called), missing or changed.

    Example: replicator procedure list
    """
    nodes = {entry.id: entry.resp for entry in ClusterFolder(dir).load_nodes()}
    found, failures = list_procedures(nodes, password)
    if failures:
        for line in explained(failures, find_cluster(dir, None, password).statuses()):
            print_error("Warning:", "bold yellow", f"{line}: its procedures are not shown")
    lines = [
        f"{it.name}  {it.hash[:12]}  " + ", ".join(f"{node} {state}" for node, state in it.nodes.items())
        for it in found
    ]
    print_result("\n".join(lines) or "no procedures", [asdict(it) for it in found], json=json)
