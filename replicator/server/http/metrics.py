"""What Prometheus scrapes, read from the node at that moment."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from replicator.node.health import NodeState
from replicator.node.status import NodeStatus
from replicator.server.stats import Stats

CONTENT_TYPE = CONTENT_TYPE_LATEST


class NodeCollector(Collector):
    def __init__(self, status: NodeStatus, stats: Stats) -> None:
        self._status = status
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        status, stats = self._status, self._stats
        yield InfoMetricFamily(
            "replicator_node", "who this is", {"id": status.id, "role": status.role, "timeline": status.timeline}
        )
        gauges = {
            "leader": ("1 if this node leads", float(status.role.leads)),
            "serving": ("1 if this node answers reads", float(status.state is NodeState.SERVING)),
            "epoch": ("term of the current leader", status.epoch),
            "seq": ("accepted records so far", status.seq),
            "applied_offset": ("offset of the last record applied", status.applied_offset),
            "lag_records": ("records in the log and not applied yet", status.end_offset - status.applied_offset),
            "lag_milliseconds": ("age of the last record applied, if there are more", status.lag_ms),
            "entries": ("entries in the store", status.entries),
            "inflight_writes": ("writes that have not ended yet", status.inflight),
            "lease_left_milliseconds": ("how long reads at this leader are sure to be current", status.lease_left_ms),
        }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(f"replicator_{name}", what, value)
        writes = CounterMetricFamily("replicator_writes", "writes that have ended here", labels=["outcome"])
        writes.add_metric(["ok"], stats.writes_ok)
        writes.add_metric(["rejected"], stats.writes_rejected)
        writes.add_metric(["unknown"], stats.writes_unknown)
        yield writes
        claims = CounterMetricFamily("replicator_claims", "claims to the lead that counted", labels=["reason"])
        for reason, count in status.claims.items():
            claims.add_metric([reason], count)
        yield claims
        yield CounterMetricFamily("replicator_commands", "commands of Redis clients", stats.commands)
        yield CounterMetricFamily("replicator_connections", "connections of Redis clients", stats.connections)
        yield CounterMetricFamily("replicator_void_records", "records read that do not count", status.void_records)


def render(status: NodeStatus, stats: Stats) -> bytes:
    """The text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(status, stats))
    return generate_latest(registry)
