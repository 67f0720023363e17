"""`replicator snapshot open`: read the past."""

from __future__ import annotations

from typing import Annotated

import typer

from replicator.cli import options
from replicator.errors import ConfigError
from replicator.local.ports import is_free

Name = Annotated[
    str | None,
    typer.Argument(
        help="The name of a snapshot; by default the newest, or the newest before --offset or --time.",
        show_default=False,
    ),
]
ToOffset = Annotated[
    int | None,
    typer.Option("--offset", min=0, help="Also apply the log up to this offset.", show_default=False),
]
ToTime = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="TIME",
        help="Also apply the log up to this time: 10m (ago) or 2026-01-31T12:00.",
        show_default=False,
    ),
]


def open_(
    name: Name = None,
    offset: ToOffset = None,
    time: ToTime = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port for Redis clients; by default a free one.")] = 0,
    dir: options.Dir = options.DEFAULT_DIR,
    bootstrap: options.KafkaBootstrap = None,
    cluster: options.KafkaCluster = None,
    config: options.KafkaConfig = None,
    repository: options.RepositoryUrl = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Serve a read-only view of the past to Redis clients on this machine, until Ctrl-C.

    As of the snapshot, or as of a later offset or time, up to which the log is applied: from its start, if no snapshot
    is older and the log is complete. No node needs to run. Writes are refused, and keys that had expired by then are
    gone. The data are copied to a temporary folder.

    Example: replicator snapshot open --port 7100
    Example: replicator snapshot open --time 2026-01-31T12:00 --port 7100
    """
    from replicator.cli.past_server import open_past  # takes long, and the other commands do not need it

    target = options.parse_target(offset, time)
    if port and not is_free(port):  # before work that takes long
        raise ConfigError(f"port {port} is in use: choose another --port")
    open_past(name, target, port, dir, bootstrap, cluster, config, repository, password, json=json)
