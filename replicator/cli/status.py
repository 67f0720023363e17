"""`replicator status`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from replicator.cli import options
from replicator.cli.output import console, print_json
from replicator.local.admin_client import UNREACHABLE, ClusterClient, find_cluster
from replicator.log.kafka.topic import wal_topic

STATE_COLOURS = {"serving": "green", "catching up": "yellow", "waiting": "yellow", "failed": "red", UNREACHABLE: "red"}


def status(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    json: options.Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
    password: options.Password = "",
) -> None:
    """Who leads, who is how far, and whether all hold the same.

    Exit code 1 if there is no leader or a node does not serve.

    Example: replicator status --watch
    """
    client = find_cluster(dir, connect, password)
    if watch:
        with Live(table(client), console=console, refresh_per_second=4) as live:
            while True:
                time.sleep(0.5)
                live.update(table(client))
    summary = summarise(client)
    if json:
        print_json(summary)
    else:
        console.print(_draw(summary))
    if not summary["leader"] or any(node["state"] != "serving" for node in summary["nodes"]):
        raise typer.Exit(1)


def summarise(client: ClusterClient) -> dict[str, Any]:
    """The fields of `--json`. The cluster is as its node with the highest epoch sees it."""
    statuses = client.statuses()
    seen = max(statuses, key=lambda it: (it["node"].get("epoch", -1), it["node"].get("applied_offset", -1)))
    node = seen["node"]
    end_offset = max(it["node"].get("end_offset", -1) for it in statuses)
    return {
        "cluster": seen.get("cluster", ""),
        "timeline": node.get("timeline", ""),
        "topic": wal_topic(seen.get("cluster", "")),
        "topic_id": node.get("topic_id", ""),
        "epoch": node.get("epoch", 0),
        "leader": node.get("leader"),
        "lease_left_ms": _lease_left_ms(statuses, node),
        "elected": _elected(statuses, node),
        "end_offset": end_offset,
        "policy": seen.get("policy"),
        "nodes": [_summarise_node(it, end_offset) for it in statuses],
    }


def _lease_left_ms(statuses: list[Any], seen: Any) -> float | None:
    """Of the leader, if it answers."""
    leaders = (it["node"] for it in statuses if it["node"].get("role") == "leader")
    return next((it["lease_left_ms"] for it in leaders if it["epoch"] == seen.get("epoch")), None)


def _elected(statuses: list[Any], seen: Any) -> dict[str, Any] | None:
    """How the term began that `seen` is in, as told by any node that was there."""
    for node in (it["node"] for it in statuses):
        elected = node.get("elected")
        if elected and elected["epoch"] == seen.get("epoch"):
            return {**elected, "term_ms": node["term_ms"]}
    return None


def _summarise_node(status: Any, end_offset: int) -> dict[str, Any]:
    node, member = status["node"], status["member"]
    applied = node.get("applied_offset")
    return {
        "id": node["id"],
        "role": node.get("role"),
        "mode": member["mode"],
        "resp": member["resp"],
        "http": member["http"],
        "state": node["state"],
        "trouble": node.get("trouble") or node.get("refusal", ""),
        "applied_offset": applied,
        "lag_records": None if applied is None else max(0, end_offset - applied),
        "lag_ms": node.get("lag_ms"),
        "digest": node.get("digest"),
        "entries": node.get("entries"),
    }


def table(client: ClusterClient) -> Group:
    return _draw(summarise(client))


def _draw(summary: dict[str, Any]) -> Group:
    place = f"log end {summary['end_offset']}"
    columns = ("node", "role", "mode", "redis", "state", "applied", "lag", "entries", "digest")
    shown = Table(*columns, title=f"{summary['cluster']}: {place}", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for node in sorted(summary["nodes"], key=lambda it: str(it["id"])):
        colour = STATE_COLOURS.get(node["state"], "white")
        values = [node[key] for key in ("applied_offset", "lag_records", "entries")]
        applied, lag, entries = ("" if value is None else str(value) for value in values)
        role = f"[bold]{node['role']}[/]" if node["role"] == "leader" else node["role"] or ""
        state = f"[{colour}]{node['state']}[/]"
        digest = (node["digest"] or "")[:8]
        shown.add_row(node["id"], role, node["mode"], escape(node["resp"]), state, applied, lag, entries, digest)
    troubles = [escape(f"{node['id']}: {node['trouble']}") for node in summary["nodes"] if node["trouble"]]
    policy = [describe_policy(summary["policy"])] if summary["policy"] else []
    return Group(shown, _term(summary), *policy, *troubles)


def describe_policy(policy: dict[str, Any]) -> str:
    if policy["write"] == "async":
        return "writes are async: answered once they are in the log"
    wait_for = {
        "all": "all sync members",
        "quorum": f"{policy['quorum']} of the sync members",
        "named": ", ".join(policy["named"]),
    }[policy["wait_for"]]
    return f"writes are {policy['write']}: answered once they are in the stores of {wait_for}"


def _term(summary: dict[str, Any]) -> str:
    """Such as: epoch 7: n2 leads since 12 s (election: n1 had not been heard of), lease left 540 ms."""
    if not summary["leader"]:
        return f"epoch {summary['epoch']}: nobody leads"
    said = f"epoch {summary['epoch']}: {summary['leader']} leads"
    if summary["elected"]:
        elected = summary["elected"]
        said += f" since {_duration(elected['term_ms'])} ({elected['reason']}: {elected['why']})"
    if summary["lease_left_ms"] is not None:
        said += f", lease left {summary['lease_left_ms']:.0f} ms"
    return said


def _duration(duration_ms: float) -> str:
    seconds = int(duration_ms // 1000)
    if seconds < 120:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
