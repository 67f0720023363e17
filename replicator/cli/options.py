"""Options that several commands share."""

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
    typer.Option("--connect", metavar="HOST:PORT", help="Any node of the cluster, by its HTTP or Redis port."),
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Password = Annotated[
    str,
    typer.Option(
        "--password",
        envvar="REPLICATOR_NODE_PASSWORD",
        show_default=False,
        show_envvar=True,
        help="The cluster's password, better given by the environment.",
    ),
]


def environment_password() -> str:
    return os.environ.get("REPLICATOR_NODE_PASSWORD", "")
