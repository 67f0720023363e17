"""Writes the table of metrics into docs/metrics.md, between its markers.

python -m tools.metrics_doc
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from prometheus_client.core import Metric

from replicator.log.port import LogExtent
from replicator.node.change_stream import PublisherReport, PublisherState
from replicator.node.replica_progress import ReplicaLag
from replicator.node.snapshots import ListedSnapshot, SnapshotReport
from replicator.node.status import NodeStatus
from replicator.position import NodeId, Offset
from replicator.protocol.roles import Role
from replicator.server.http.metrics import MetricsInput, NodeCollector
from replicator.server.stats import Stats
from replicator.store.snapshot import Manifest

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
_PART = re.compile(r"(<!-- generated: metrics -->\n).*?(<!-- end -->)", re.DOTALL)
_BUCKET_LABEL = "le"


def example() -> MetricsInput:
    """Of a node that has all metrics."""
    n1 = NodeId("n1")
    status = NodeStatus(
        id=n1,
        role=Role.LEADER,
        upstream=n1,
        epoch=1,
        leader=n1,
        timeline="00",
        topic_id="",
        seq=1,
        applied_offset=1,
        end_offset=1,
        digest="",
        entries=1,
        store_bytes=1,
        holds_leadership=True,
    )
    snapshot = Manifest(
        name="",
        cluster="",
        topic_id="",
        timeline="",
        offset=1,
        seq=1,
        epoch=1,
        chain="",
        digest="",
        entries=1,
        bytes=1,
        sha256="",
        taken_at_ms=1,
    )
    return MetricsInput(
        status,
        Stats(),
        cluster="",
        replica_lags={NodeId("n2"): ReplicaLag(records=0, seconds=0.0)},
        log_extent=LogExtent(start=Offset(0), size_bytes=1),
        snapshots=SnapshotReport((ListedSnapshot(snapshot, verified_at_ms=1),), needed_from=Offset(0)),
        publisher=PublisherReport(PublisherState.PUBLISHING),
    )


def described() -> list[Metric]:
    """All metrics of a node, with a sample each."""
    return list(NodeCollector(example()).collect())


def table() -> str:
    rows = [_row(metric) for metric in described()]
    lines = (("metric", "type", "labels", "meaning"), ["---"] * 4, *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(metric: Metric) -> Sequence[str]:
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    kind = "gauge" if metric.type == "info" else metric.type  # as the text format has it
    return f"`{metric.name}{suffix}`", kind, _labels(metric), metric.documentation


def _labels(metric: Metric) -> str:
    """With the values that they can have, if these are fixed."""
    labels = [label for label in metric.samples[0].labels if label != _BUCKET_LABEL]
    names = ", ".join(f"`{label}`" for label in labels)
    if metric.type == "info" or labels in ([], ["replica"]):
        return names
    values = dict.fromkeys(sample.labels[labels[0]] for sample in metric.samples)
    return f"{names}: {', '.join(values)}"


def regenerated(page: str) -> str:
    return _PART.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(regenerated(PAGE.read_text()))
