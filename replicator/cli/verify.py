"""`replicator verify`: compare the stores of all replicas now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from replicator.cli import options
from replicator.cli.output import ConsoleProgress, console, count, errors, plain_table, print_json, print_whole
from replicator.local.admin_client import find_cluster
from replicator.local.comparison import DIFFERS, EQUAL, NOT_COMPARED, StoreComparisonReport, compare_stores

COLOURS = {EQUAL: "green", DIFFERS: "red", NOT_COMPARED: "yellow"}
ABSENT = "-"


def verify(
    dir: options.Dir = options.DEFAULT_DIR,
    connect: options.Connect = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many entries that differ are named.")] = 20,
    password: options.Password = "",
    json: options.Json = False,
) -> None:
    """Compare the stores of all replicas at one offset, entry by entry, and name the keys that differ.

    Nodes go on serving. The leader appends a checkpoint; each replica computes digests of ranges of keys as of that
    offset, and lists only what differs. Exit code 1 if stores differ, or a replica could not be compared.

    Example: replicator verify
    """
    admin = find_cluster(dir, connect, password)
    with ConsoleProgress(errors if json else console) as progress:
        report = compare_stores(admin, limit, progress)
    if json:
        print_json(report.as_json())
    else:
        print_whole(*draw(report))
    if not report.all_equal:
        raise typer.Exit(1)


def draw(report: StoreComparisonReport) -> Iterator[RenderableType]:
    table = plain_table("node", "role", "mode", "entries", "digest", "result")
    for node in report.nodes:
        entries = "" if node.entries is None else str(node.entries)
        result = Text(node.result, COLOURS[node.result])
        table.add_row(node.id, node.role or "", node.mode, entries, (node.digest or "")[:12], result)
    yield f"stores at offset {report.offset}"
    yield table
    for node in report.nodes:
        if node.trouble:
            yield f"{node.id}: {node.trouble}"
        if node.lost:
            yield f"{node.id}: Kafka has lost {node.lost}, which this node had read before its store was rebuilt"
    if report.differences:
        yield _draw_differences(report)
    if report.has_more:
        yield f"there are more: these are the first {count(len(report.differences), 'entry', 'entries')} (--limit)"


def _draw_differences(report: StoreComparisonReport) -> RenderableType:
    ids = list(report.differences[0].digests)
    table = plain_table("table", "key", "field", *ids)
    for it in report.differences:
        digests = [(it.digests[id] or ABSENT)[:12] for id in ids]
        table.add_row(it.table, it.row, it.field, *digests)
    return table
