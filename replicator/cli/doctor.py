"""`replicator doctor`: checks that Kafka's settings let no acknowledged write be lost, and shows the build."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from replicator.cli import options
from replicator.cli.output import console, print_json, print_whole
from replicator.local.admin_client import NodeUnreachable, find_cluster
from replicator.local.build import check_build
from replicator.local.folder import ClusterFolder
from replicator.log.kafka.check import check_headroom, check_topic
from replicator.position import NodeId


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
    results = check_topic(kafka.bootstrap, kafka.cluster, security=kafka.security)
    if cluster is None:
        results += check_headroom(kafka.bootstrap, kafka.cluster, _members(dir), security=kafka.security)
    results += check_build()
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


def _members(dir: Path) -> list[NodeId]:
    """As a node reports them; if none answers, the nodes of the folder."""
    try:
        return [NodeId(member.node) for member in find_cluster(dir, None, "").any_status().members]
    except NodeUnreachable:
        return [NodeId(entry.id) for entry in ClusterFolder(dir).load().nodes]
