"""`replicator sql`: SQL at a prompt, from options, or from standard input."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from replicator.address import Address
from replicator.cli import options
from replicator.cli.sql_output import printable
from replicator.cli.sql_script import QUIT, numbered_statements, statements
from replicator.errors import BadRequest, ConfigError, ReplicatorError
from replicator.local.admin_client import NodeUnreachable
from replicator.local.folder import ClusterFolder
from replicator.local.kafka.paths import state_dir
from replicator.local.resp_connection import CommandFailed, RespConnection

CONNECT_S = 3.0
SHOWN = 200  # characters of a statement that has failed
HISTORY = "sql_history"
NEEDS_EXTRA = 'replicator sql needs redis-py and prompt_toolkit: `pip install "replicator[sql]"`'

Timeout = Annotated[
    int | None,
    typer.Option(
        metavar="TIME",
        parser=options.parse_duration,
        help="For how long to wait for the result of a statement, such as 60s. Default: 10s.",
    ),
]


def sql(
    words: Annotated[list[str] | None, typer.Argument(hidden=True, help="A mistake: statements follow -c.")] = None,
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
    timeout: Timeout = None,
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
    not executed, and the exit code is 1. In JSON, bytes are hexadecimal digits, infinite numbers are the texts Infinity
    and -Infinity, and of two columns with the name a, the second one is a:1.

    Example: replicator sql
    Example: replicator sql -c 'CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)' -c .tables
    Example: replicator sql --json -c 'SELECT * FROM users' | jq .name
    Example: replicator sql --node 127.0.0.1:7001 --timeout 60s -c 'SELECT count(*) FROM users'
    """
    if words:
        raise typer.BadParameter(f"to execute a statement, use -c: replicator sql -c {shlex.quote(' '.join(words))}")
    if commands is not None and not any(map(str.strip, commands)):
        raise typer.BadParameter("the statement is empty", param_hint="-c")
    try:
        from replicator.cli import sql_prompt  # noqa: F401
        from replicator.client import dbapi
        from replicator.client.dbapi.settings import parse_level_name
    except ImportError as error:
        raise ConfigError(NEEDS_EXTRA) from error
    try:
        read_level = parse_level_name(level)
    except BadRequest as error:
        raise typer.BadParameter(str(error), param_hint="--level") from None
    found, cluster = _find_nodes(nodes, dir, password)
    timeout_s = None if timeout is None else timeout / 1000
    try:
        connection = dbapi.connect(
            nodes=found, cluster=cluster, password=password, level=read_level, autocommit=True, timeout_s=timeout_s
        )
        with closing(connection):
            _execute(connection, commands, json=json)
    except dbapi.Error as error:
        raise ReplicatorError(str(error)) from error


def _execute(connection: Any, commands: Sequence[str] | None, *, json: bool) -> None:
    """Raises `Error`, `ReplicatorError`."""
    from replicator.cli.sql_prompt import run_prompt
    from replicator.cli.sql_shell import SqlShell

    shell = SqlShell(connection, json=json)
    if commands is not None:
        _run_script(shell, (("", it) for text in commands for it in statements(text.splitlines(True))))
    elif sys.stdin.isatty():
        run_prompt(shell, state_dir() / HISTORY)
    else:
        _run_script(shell, ((f"line {line}", it) for line, it in numbered_statements(sys.stdin)))


def _run_script(shell: Any, script: Iterable[tuple[str, str]]) -> None:
    """`script`: statements, each with its place or "". Raises `Error`, `ReplicatorError`."""
    from replicator.client import dbapi

    for place, statement in script:
        if statement in QUIT:
            break
        try:
            shell.execute(statement)
        except (dbapi.Error, BadRequest) as error:
            if not place:
                raise
            raise ReplicatorError(f"{place}: {error}, in: {printable(' '.join(statement.split())[:SHOWN])}") from error
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
