"""`replicator status`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from replicator.address import Address
from replicator.cli import options
from replicator.cli.output import console, count, plain_table, print_json, print_json_line, print_whole, size
from replicator.local.admin_client import ClusterAdmin, find_cluster
from replicator.local.folder import ClusterFolder
from replicator.local.status import FAILED, LEADING_ROLES, REPLACED, SERVING, UNREACHABLE
from replicator.local.summary import ClusterSummary, NodeSummary, awaits_others, summarise
from replicator.node.change_stream import PublisherState
from replicator.records.types import Mode, Policy, Replication, Timing, WaitFor, WriteMode

STATE_COLOURS = {
    SERVING: "green",
    "catching up": "yellow",
    "waiting": "yellow",
    "healing": "yellow",
    **dict.fromkeys((FAILED, REPLACED, UNREACHABLE), "red"),
}
SOURCES = {"kafka": "Kafka", "leader": "leader"}
REFRESH_S = 0.5
HEALED_MS = 86_400_000


def status(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    json: options.Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    password: options.Password = "",
) -> None:
    """Show the leader, how far each node has applied the log, and whether all nodes hold the same data.

    With --watch and --json, print one JSON object a line. Exit code 1 if there is no leader or a node does not serve.

    Example: replicator status --watch
    """
    admin = find_cluster(dir, connect, password)
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(admin, json=json)
        return
    summary = summarise(admin)
    if json:
        print_json(summary.as_json())
    else:
        print_whole(*draw(summary), *_kafka_remedy(summary, dir, connect))
    if not summary.leader or not summary.all_serve:
        raise typer.Exit(1)


def _watch(admin: ClusterAdmin, *, json: bool) -> NoReturn:
    """Raises `NodeUnreachable`."""
    if json or not console.is_terminal:
        while True:
            summary = summarise(admin)
            if json:
                print_json_line(summary.as_json())
            else:
                print_whole(*draw(summary))
            time.sleep(REFRESH_S)
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            live.update(Group(*draw(summarise(admin))))
            time.sleep(REFRESH_S)


def draw(summary: ClusterSummary) -> list[RenderableType]:
    """Lines and a table."""
    table = plain_table("node", "role", "mode", "redis", "state", "source", "applied", "lag", "entries", "digest")
    for node in sorted(summary.nodes, key=lambda it: it.id):
        colour = STATE_COLOURS.get(node.state, "white")
        values = (node.applied_offset, node.lag_records, node.entries)
        applied, lag, entries = ("" if value is None else str(value) for value in values)
        role = Text(node.role or "", "bold" if node.role in LEADING_ROLES else "")
        state = Text(node.state, colour)
        digest = (node.digest or "")[:8]
        source = node.upstream or "" if node.source == "follower" else SOURCES.get(node.source or "", "")
        table.add_row(node.id, role, node.mode, node.resp, state, source, applied, lag, entries, digest)
    log_size = "" if summary.log_bytes is None else f", {size(summary.log_bytes)}"
    title = f"{summary.cluster}: log end {summary.end_offset}{log_size}"
    sync = [node.id for node in summary.nodes if node.mode == Mode.SYNC]
    policy = [describe_policy(summary.policy, sync, summary.leader)] if summary.policy else []
    return [
        title,
        table,
        *draw_tree(summary.nodes),
        *_describe_stores(summary),
        *_describe_change_stream(summary),
        *_describe_outage(summary),
        _describe_term(summary),
        *policy,
        *_troubles(summary),
        *_describe_heals(summary),
        *_ignored_settings(summary),
    ]


def draw_tree(nodes: Sequence[NodeSummary]) -> Iterator[RenderableType]:
    """The upstream of each node, if any of them is a follower.

    Nodes that do not answer, and those in a loop, which ends soon, are left out.
    """
    if not any(node.source == "follower" for node in nodes):
        return
    answering = [node for node in nodes if node.applied_offset is not None]
    known = {node.id for node in answering}
    downstream: dict[str, list[NodeSummary]] = {}
    for node in sorted(answering, key=lambda it: it.id):
        upstream = node.upstream if node.upstream in known else None  # it may have been removed since
        downstream.setdefault(upstream or "", []).append(node)
    tree = Tree("Kafka")
    levels = [(tree, downstream.pop("", []))]
    while levels:
        branch, children = levels.pop()
        for node in children:
            lag = "" if node.lag_records is None else f", lag {node.lag_records}"
            levels.append((branch.add(f"{node.id}{lag}"), downstream.pop(node.id, [])))
    yield tree


def _describe_stores(summary: ClusterSummary) -> Iterator[str]:
    """Their sizes, in a line: one more column would not fit into 80 characters."""
    nodes = sorted(summary.nodes, key=lambda it: it.id)
    sizes = [f"{node.id} {size(node.store_bytes)}" for node in nodes if node.store_bytes is not None]
    if sizes:
        yield f"size of the stores: {', '.join(sizes)}"


def _describe_change_stream(summary: ClusterSummary) -> Iterator[str]:
    """Unless there is none, or it is disabled."""
    for node in summary.nodes:
        publisher = node.publisher
        if publisher is not None and publisher.publishes:
            lag = count(publisher.lag_records, "record", "records")
            rate = f"{publisher.changes_per_s:.0f} changes/s"
            yield f"change stream: {node.id} is {publisher.state}, {lag} behind, {rate}"
        elif publisher is not None and publisher.state == PublisherState.FAILED:
            yield f"change stream: {node.id} cannot publish: {publisher.trouble}"


def _troubles(summary: ClusterSummary) -> Iterator[str]:
    """The nodes that report the same share a line."""
    nodes: dict[str, list[str]] = {}
    for node in summary.nodes:
        if node.trouble:
            nodes.setdefault(node.trouble, []).append(node.id)
    for trouble, ids in nodes.items():
        yield f"{', '.join(ids)}: {trouble}"


def _describe_heals(summary: ClusterSummary) -> Iterator[str]:
    """Of the last day."""
    now_ms = time.time_ns() // 1_000_000
    for node in summary.nodes:
        heal = node.healed
        if heal is None or now_ms - heal.healed_at_ms > HEALED_MS:
            continue
        source = f"snapshot {heal.source}" if heal.source else "the start of the log"
        age = _duration(max(0, now_ms - heal.healed_at_ms))
        yield f"{node.id} rebuilt its store from {source} {age} ago: {heal.damage.error}"
        if heal.lost:
            yield f"{node.id}: Kafka has lost {heal.describe_lost()}. The former store of the node still has them"


def _describe_outage(summary: ClusterSummary) -> Iterator[Text]:
    if summary.kafka_answers:
        return
    down_ms = summary.kafka_down_ms
    since = ""
    if down_ms is not None:
        began = datetime.now(UTC) - timedelta(milliseconds=down_ms)
        since = f" since {began:%Y-%m-%d %H:%M:%S} UTC ({_duration(down_ms)})"
    yield Text.assemble((f"Kafka unreachable{since}", "red"), ": writes fail, eventual reads go on")


def _kafka_remedy(summary: ClusterSummary, dir: Path, connect: Address | None) -> Iterator[str]:
    if not summary.kafka_answers and connect is None:
        yield ClusterFolder(dir).kafka_remedy()


def _ignored_settings(summary: ClusterSummary) -> Iterator[str]:
    for node in summary.nodes:
        for name, value in node.ignored_timing.items():
            yield (
                f"{node.id}: its config has {name} {value}, but the cluster has {getattr(summary.timing, name, None)}: "
                "`replicator cluster timing` changes it, the config does not"
            )


def describe_timing(timing: Timing | None) -> str:
    if timing is None:
        return "the log has no timing yet: the next leader writes that of its config"
    return "\n".join(f"{name} {value}" for name, value in asdict(timing).items())


def describe_policy(policy: Policy, sync: Sequence[str], leader: str | None) -> str:
    """`sync`: ids of the sync members."""
    text = _describe_acks(policy, sync, leader)
    if policy.replicate is Replication.COMMAND:
        text += "\nthe log has the commands that made the changes, where they can be executed again"
    elif policy.replicate is Replication.MIXED:
        text += "\nthe log has the changes or the command that made them, whichever is smaller"
    return text


def _describe_acks(policy: Policy, sync: Sequence[str], leader: str | None) -> str:
    if policy.write is WriteMode.ASYNC:
        text = "writes are async: answered once they are in the log"
        if policy.wait_for is WaitFor.ALL:
            return text
        return f"{text}; {policy.wait_for} has no effect until `replicator cluster policy --write sync`"
    text = f"writes are {policy.write}: answered once they are in {_stores(policy, sync)}"
    if policy.write is WriteMode.SUSPEND:
        text += "; before they are appended, all of these stop answering reads of their keys"
    elif policy.write is WriteMode.INVALIDATE:
        text += ", which stop answering reads of their keys until then"
    if awaits_others(policy, sync, leader):
        return text
    return (
        f"{text}\nno redundancy: writes wait for no node but the leader, {leader or 'which is unknown'}. "
        "`replicator replica set-mode ID sync` adds a sync member"
    )


def _stores(policy: Policy, sync: Sequence[str]) -> str:
    """The stores that a write waits for, in any mode but async."""
    members = f"sync members ({', '.join(sync) or 'none'})"
    if policy.wait_for is WaitFor.QUORUM:
        return f"the stores of {policy.quorum} of the {members}"
    if policy.wait_for is WaitFor.NAMED:
        return f"the stores of {', '.join(policy.named)}"
    return f"the stores of all {members}"


def _describe_term(summary: ClusterSummary) -> str:
    """Such as: epoch 7: n2 has been leader for 12 s (election: …), lease left 540 ms."""
    if not summary.leader:
        return f"epoch {summary.epoch}: no leader"
    elected, term_ms = summary.elected, summary.term_ms
    if elected is None or term_ms is None:
        text = f"epoch {summary.epoch}: {summary.leader} is leader"
    else:
        duration = _duration(term_ms)
        reason = f"{elected.reason}: {elected.why}"
        text = f"epoch {summary.epoch}: {summary.leader} has been leader for {duration} ({reason})"
    if summary.leader_is_idle:
        text += ", idle"
    elif summary.lease_left_ms is not None:
        text += f", lease left {summary.lease_left_ms} ms"
    return text


def _duration(duration_ms: float) -> str:
    seconds = int(duration_ms // 1000)
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
