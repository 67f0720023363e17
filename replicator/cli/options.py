"""Options of several commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_DIR = Path("replicator-data")

Dir = Annotated[
    Path,
    typer.Option("--dir", envvar="REPLICATOR_DIR", help="The folder of the cluster.", show_default=True),
]
Connect = Annotated[
    str | None,
    typer.Option("--connect", metavar="HOST:PORT", help="HTTP or Redis port of any node of the cluster."),
]
Bootstrap = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="A running Kafka; by default one is started on this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Password = Annotated[
    str,
    typer.Option(
        "--password",
        envvar="REPLICATOR_NODE_PASSWORD",
        show_default=False,
        show_envvar=True,
        help="The cluster's password; better set in the environment.",
    ),
]


def environment_password() -> str:
    return os.environ.get("REPLICATOR_NODE_PASSWORD", "")
