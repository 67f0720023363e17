"""`replicator doctor`: checks that Kafka's settings let no acknowledged write be lost, and shows the build."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table
from rich.text import Text

from replicator.cli import options
from replicator.cli.output import console, print_json, print_whole
from replicator.local.build import check_build
from replicator.log.kafka.check import check_topic


def doctor(
    dir: options.Dir = options.DEFAULT_DIR,
    bootstrap: options.KafkaBootstrap = None,
    cluster: options.KafkaCluster = None,
    config: options.KafkaConfig = None,
    json: options.Json = False,
) -> None:
    """Check the settings of the brokers and of the log's topic, and explain each; show the build in use.

    Exit code 1 if something should be changed. TLS and SASL settings can also be in the environment, as for nodes.

    Example: replicator doctor --bootstrap kafka:9092 --cluster shop
    """
    kafka = options.find_kafka(dir, bootstrap, cluster, config)
    results = check_topic(kafka.bootstrap, kafka.cluster, security=kafka.security) + check_build()
    if json:
        print_json([asdict(result) for result in results])
    else:
        shown = Table("", "setting", "is", "should be", "why", title=f"{kafka.cluster} at {kafka.bootstrap}")
        for result in results:
            mark = Text("✓", "green") if result.ok else Text("✗", "red")
            shown.add_row(mark, result.name, result.value, result.expected, result.why)
        if console.is_terminal:
            console.print(shown)
        else:
            print_whole(shown)
    if not all(result.ok for result in results):
        raise typer.Exit(1)
