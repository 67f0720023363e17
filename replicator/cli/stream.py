"""`replicator stream`: the change stream, for consumers of Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from replicator.cli import options, stream_tail
from replicator.cli.output import (
    ConsoleProgress,
    console,
    errors,
    plain_table,
    print_json,
    print_line,
    print_result,
    print_whole,
)
from replicator.local.admin_client import ChangeStreamInfo, find_cluster
from replicator.local.operations import enable_change_stream, publishing_node
from replicator.local.status import MemberStatus
from replicator.stream.envelope import StreamFormat
from replicator.stream.management import StartFrom

app = typer.Typer(help="The change stream: what changed, in a Kafka topic for other systems.", no_args_is_help=True)
app.command("tail")(stream_tail.tail)


@app.command()
def enable(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    start_from: Annotated[
        StartFrom | None,
        typer.Option(
            "--from",
            help="earliest: all changes in the log (the default); latest: those from now on; snapshot: the content "
            "of a snapshot that is taken now, then the changes after it.",
        ),
    ] = None,
    format: Annotated[StreamFormat | None, typer.Option(help="Of the messages: json (the default) or avro.")] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="URL", help="A schema registry; Avro is then in the wire format of Confluent.")
    ] = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="Of the topic; changes of a row are in one of them. Default: 1.")
    ] = None,
    compacted: Annotated[
        bool, typer.Option("--compact", help="Keep the last change of each row and field, instead of all for a time.")
    ] = False,
    retention: Annotated[
        int | None,
        typer.Option(
            metavar="TIME",
            parser=options.parse_duration,
            help="For which Kafka keeps the changes, such as 30d or 12h. Default: that of the brokers, often 7d.",
        ),
    ] = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Publish the changes of the cluster to the topic CLUSTER.changes, or go on after `disable`.

    Example: replicator stream enable
    Example: replicator stream enable --from snapshot --format avro --registry http://127.0.0.1:8081
    """
    given = {
        "start_from": start_from,
        "format": format,
        "registry": registry,
        "partitions": partitions,
        "compacted": compacted or None,
        "retention_ms": retention,
    }
    admin = find_cluster(dir, connect, password)
    with ConsoleProgress(errors if json else console) as progress:
        enabled = enable_change_stream(
            admin, {name: value for name, value in given.items() if value is not None}, progress
        )
    print_result(f"changes are published to {enabled.topic}", asdict(enabled), json=json)


@app.command()
def disable(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Stop publishing. What is published stays, and `enable` goes on from there.

    Example: replicator stream disable
    """
    disabled = publishing_node(find_cluster(dir, connect, password)).disable_change_stream()
    print_result(f"no changes are published to {disabled.topic} until it is enabled again", asdict(disabled), json=json)


@app.command()
def reset(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Delete the published changes and the settings. The cluster and its log stay; consumers have to start anew.

    Example: replicator stream reset --yes
    """
    node = publishing_node(find_cluster(dir, connect, password))
    topic = node.change_stream().topic
    if not yes:
        typer.confirm(f"Delete topic {topic} and all changes in it?", abort=True, err=True)
    node.reset_change_stream()
    print_result(f"{topic} is deleted; `replicator stream enable` creates another one", {"deleted": topic}, json=json)


@app.command()
def status(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Show how far the changes are published, and by which node.

    Example: replicator stream status
    """
    admin = find_cluster(dir, connect, password)
    found, statuses = admin.any_node().change_stream(), admin.statuses()
    if json:
        publishers = {it.node.id: it.reply.publisher and asdict(it.reply.publisher) for it in statuses}
        print_json({**asdict(found), "publishers": publishers})
        return
    print_line(_summary(found))
    if found.settings is not None:
        print_whole(_publishers(statuses))


def _summary(found: ChangeStreamInfo) -> str:
    settings, progress = found.settings, found.progress
    if settings is None or progress is None:
        return "there is no change stream: `replicator stream enable` creates one"
    kept = "the last change of each row and field" if settings["compacted"] else "changes"
    state = "enabled" if settings["enabled"] else "disabled"
    if progress["backfilling"]:
        backfill = settings["backfill"]
        state += f", {backfill['node']} has to publish the rest of snapshot {backfill['snapshot']}"
    return (
        f"{found.topic}: {state}, {kept} in {settings['format']}, {progress['changes']} published, "
        f"up to offset {progress['offset']} of the log"
    )


def _publishers(statuses: Sequence[MemberStatus]) -> Table:
    table = plain_table("node", "publisher", "offset", "changes/s", "lag", "lag ms")
    for it in statuses:
        publisher = it.reply.publisher
        if publisher is None:
            table.add_row(it.node.id, it.node.state)
        elif publisher.publishes:
            figures = (
                publisher.offset,
                f"{publisher.changes_per_s:.0f}",
                publisher.lag_records,
                f"{publisher.lag_ms:.0f}",
            )
            table.add_row(it.node.id, publisher.state, *map(str, figures))
        else:
            table.add_row(it.node.id, " ".join(filter(None, (publisher.state, publisher.trouble))))
    return table
