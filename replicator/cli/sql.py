"""`replicator sql`: SQL at a prompt, from options, or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from replicator.address import Address
from replicator.cli import options
from replicator.cli.sql_script import statements
from replicator.errors import BadRequest, ConfigError, ReplicatorError
from replicator.local.admin_client import NodeUnreachable
from replicator.local.folder import ClusterFolder
from replicator.local.kafka.paths import state_dir
from replicator.local.resp_connection import CommandFailed, RespConnection

CONNECT_S = 3.0
HISTORY = "sql_history"
NEEDS_EXTRA = 'replicator sql needs redis-py and prompt_toolkit: `pip install "replicator[sql]"`'


def sql(
    commands: Annotated[
        list[str] | None,
        typer.Option(
            "--command",
            "-c",
            metavar="STATEMENT",
            help="Execute this instead of asking for statements: SQL, .tables or .schema. May be repeated.",
        ),
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="How current reads are outside of transactions: linearizable, session (they include what was written "
            "and read before), bounded MS, or eventual.",
        ),
    ] = "linearizable",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each row.")] = False,
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            "--connect",
            metavar="HOST:PORT",
            help="The Redis port of a node, without a cluster folder; it knows the others. May be repeated.",
        ),
    ] = None,
    dir: options.Dir = options.DEFAULT_DIR,
    password: options.Password = "",
) -> None:
    """Execute SQL statements: of -c, or of standard input, or at a prompt if that is a terminal.

    Each statement is a transaction of its own, unless BEGIN starts one. After an error, the statements that follow are
    not executed, and the exit code is 1. In JSON, bytes are hexadecimal digits.

    Example: replicator sql
    Example: replicator sql -c 'CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)' -c .tables
    Example: replicator sql --json -c 'SELECT * FROM users' | jq .name
    Example: replicator sql --node 127.0.0.1:7001 -c 'SELECT count(*) FROM users'
    """
    try:
        from replicator.cli.sql_prompt import run_prompt
        from replicator.cli.sql_shell import SqlShell
        from replicator.client import dbapi
        from replicator.client.dbapi.settings import parse_level_name
    except ImportError as error:
        raise ConfigError(NEEDS_EXTRA) from error
    try:
        read_level = parse_level_name(level)
    except BadRequest as error:
        raise typer.BadParameter(str(error), param_hint="--level") from None
    found, cluster = _find_nodes(nodes, dir, password)
    try:
        connection = dbapi.connect(nodes=found, cluster=cluster, password=password, level=read_level, autocommit=True)
        with closing(connection):
            shell = SqlShell(connection, json=json)
            if commands is None and sys.stdin.isatty():
                run_prompt(shell, state_dir() / HISTORY)
            else:
                _run_script(shell, [sys.stdin] if commands is None else [it.splitlines(True) for it in commands])
    except dbapi.Error as error:
        raise ReplicatorError(str(error)) from error


def _run_script(shell: Any, texts: Iterable[Iterable[str]]) -> None:
    """`texts`: each as its lines. Raises `Error`, `ReplicatorError`."""
    for statement in chain.from_iterable(map(statements, texts)):
        if statement == ".quit":
            break
        shell.execute(statement)
    if shell.in_transaction:
        raise ReplicatorError("the transaction was rolled back, as there is no COMMIT")


def _find_nodes(nodes: Sequence[str] | None, dir: Path, password: str) -> tuple[list[str], str]:
    """The Redis addresses of some nodes, and the name of their cluster. Raises `ReplicatorError`."""
    if not nodes:
        folder = ClusterFolder(dir)
        return [str(entry.resp) for entry in folder.load_nodes()], folder.load().name
    failures = []
    for address in map(options.parse_address, nodes):
        try:
            return list(nodes), _cluster_name(address, password)
        except (OSError, CommandFailed) as error:
            failures.append(f"{address}: {error}")
    raise NodeUnreachable(f"no node answers ({'; '.join(failures)}): check --node, and that the node is running")


def _cluster_name(address: Address, password: str) -> str:
    """Raises `OSError`, `CommandFailed`."""
    with RespConnection(address, password, CONNECT_S) as connection:
        [master] = connection.execute("SENTINEL", "MASTERS")
    fields = dict(zip(master[::2], master[1::2], strict=True))
    return str(fields[b"name"].decode())
