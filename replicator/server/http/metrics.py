"""Prometheus metrics, computed from the node's status for each request."""

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
            "replicator_node",
            "this node",
            {"id": status.id, "role": status.role, "timeline": status.timeline},
        )
        gauges = {
            "leader": ("1 if this node is the leader", float(status.role.leads)),
            "serving": ("1 if this node answers reads", float(status.state is NodeState.SERVING)),
            "epoch": ("term of the current leader", status.epoch),
            "seq": ("number of the last accepted record", status.seq),
            "applied_offset": ("offset of the last record applied", status.applied_offset),
            "lag_records": ("records in the log that are not applied yet", status.end_offset - status.applied_offset),
            "lag_milliseconds": ("age of the last record applied, while records are pending", status.lag_ms),
            "entries": ("entries in the store", status.entries),
            "inflight_writes": ("writes in flight", status.inflight),
            "lease_left_milliseconds": ("remaining time of the leader's lease", status.lease_left_ms),
        }
        for name, (help_text, value) in gauges.items():
            yield GaugeMetricFamily(f"replicator_{name}", help_text, value)
        writes = CounterMetricFamily("replicator_writes", "completed writes by outcome", labels=["outcome"])
        writes.add_metric(["ok"], stats.writes_ok)
        writes.add_metric(["rejected"], stats.writes_rejected)
        writes.add_metric(["unknown"], stats.writes_unknown)
        yield writes
        claims = CounterMetricFamily("replicator_claims", "accepted claims by reason", labels=["reason"])
        for reason, count in status.claims.items():
            claims.add_metric([reason], count)
        yield claims
        yield CounterMetricFamily("replicator_commands", "commands received from Redis clients", stats.commands)
        yield CounterMetricFamily("replicator_connections", "connections of Redis clients", stats.connections)
        yield CounterMetricFamily("replicator_void_records", "records skipped as void", status.void_records)


def render(status: NodeStatus, stats: Stats) -> bytes:
    """The Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(status, stats))
    return generate_latest(registry)
