"""`replicator doctor`: checks that Kafka's settings let no acknowledged write be lost, and shows the build."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from replicator.cli import options
from replicator.cli.output import console, print_json, print_whole
from replicator.config import load_kafka
from replicator.errors import ConfigError
from replicator.local.build import check_build
from replicator.local.folder import ClusterFolder
from replicator.log.kafka.check import check_topic
from replicator.log.kafka.security import security_of


def doctor(
    dir: options.Dir = options.DEFAULT_DIR,
    bootstrap: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", parser=options.parse_bootstrap, help="Kafka, without a cluster folder."),
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="The cluster's name, without a cluster folder.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file whose section kafka has the TLS and SASL settings.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Check the settings of the brokers and of the log's topic, and explain each; show the build in use.

    Exit code 1 if something should be changed. TLS and SASL settings can also be in the environment, as for nodes.

    Example: replicator doctor --bootstrap kafka:9092 --cluster shop
    """
    if (bootstrap is None) != (cluster is None):
        raise ConfigError("give both --bootstrap and --cluster, or the folder of a cluster with --dir")
    if bootstrap is None or cluster is None:
        file = ClusterFolder(dir).load()
        bootstrap, cluster = file.bootstrap, file.name
    security = security_of(load_kafka(config, os.environ, bootstrap))
    results = check_topic(bootstrap, cluster, security=security) + check_build()
    if json:
        print_json([asdict(result) for result in results])
    else:
        shown = Table("", "setting", "is", "should be", "why", title=f"{cluster} at {bootstrap}")
        for result in results:
            mark = Text("✓", "green") if result.ok else Text("✗", "red")
            shown.add_row(mark, result.name, result.value, result.expected, result.why)
        if console.is_terminal:
            console.print(shown)
        else:
            print_whole(shown)
    if not all(result.ok for result in results):
        raise typer.Exit(1)
