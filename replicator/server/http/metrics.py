"""Prometheus metrics, computed for each request (docs/metrics.md lists them).

Names end in their unit or `_total`, and times and sizes are in seconds and bytes, as Prometheus recommends.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from replicator import __version__
from replicator.log.port import LogExtent
from replicator.node.change_stream import NO_PUBLISHER, PublisherReport, PublisherState
from replicator.node.damage import HealHistory
from replicator.node.health import NodeState
from replicator.node.latencies import LATENCY_BOUNDS_S, Histogram, StageLatencies
from replicator.node.record_source import SourceName
from replicator.node.replica_progress import ReplicaLag
from replicator.node.snapshots import NOTHING_KNOWN, ListedSnapshot, SnapshotReport
from replicator.node.status import NodeStatus
from replicator.position import NodeId
from replicator.protocol.healing import Cause, Heal
from replicator.records.types import VERSION, Reason
from replicator.server.build import is_compiled
from replicator.server.stats import Stats

CONTENT_TYPE = CONTENT_TYPE_LATEST

_BOUNDS = (*map(str, LATENCY_BOUNDS_S), "+Inf")


@dataclass(frozen=True, slots=True)
class MetricsInput:
    """What the metrics of a node are computed from."""

    status: NodeStatus
    stats: Stats
    cluster: str = ""
    latencies: StageLatencies = field(default_factory=StageLatencies)
    replica_lags: Mapping[NodeId, ReplicaLag] = field(default_factory=dict)  # empty on followers
    record_version: int = VERSION  # of the records that a leader writes now
    log_extent: LogExtent | None = None  # None: Kafka does not answer
    snapshots: SnapshotReport = NOTHING_KNOWN
    publisher: PublisherReport = NO_PUBLISHER


class NodeCollector(Collector):
    def __init__(self, values: MetricsInput) -> None:
        self._values = values

    def collect(self) -> Iterator[Metric]:
        yield from self._node()
        yield from self._replication()
        yield from self._clients()
        yield from self._latencies()
        yield from self._storage()
        yield from self._change_stream()

    def _node(self) -> Iterator[Metric]:
        status = self._values.status
        yield InfoMetricFamily(
            "replicator_build",
            "Version and build (compiled or interpreted) of this program, its Python, and the newest version of "
            "records that it reads. Always 1.",
            {
                "version": __version__,
                "build": "compiled" if is_compiled() else "interpreted",
                "python_version": platform.python_version(),
                "record_version": str(VERSION),
            },
        )
        yield InfoMetricFamily(
            "replicator_node",
            "Cluster and id of this node, its role, and the timeline of the log that it follows. Always 1.",
            {"cluster": self._values.cluster, "id": status.id, "role": status.role, "timeline": status.timeline},
        )
        yield _gauge("leader", "Whether this node is the leader (1) or not (0).", status.role.leads)
        yield _gauge("serving", "Whether this node answers reads (1) or not (0).", status.state is NodeState.SERVING)
        yield from _healing(status.state, status.heals, status.healed)
        yield _gauge(
            "kafka_up",
            "Whether Kafka answers this node, as far as it knows (1), or the node waits for Kafka (0).",
            status.kafka_answers,
        )
        yield _gauge(
            "lease_remaining_seconds",
            "Time until the lease of this leader expires unless it is renewed. 0 at followers, and while idle.",
            status.lease_left_ms / 1000,
        )
        yield _gauge("epoch", "Term of the current leader, as this node knows it.", status.epoch)
        yield _counters(
            "claims",
            "Number of accepted claims to leadership that this process has read, by reason.",
            "reason",
            status.claims,
        )

    def _replication(self) -> Iterator[Metric]:
        status = self._values.status
        yield _gauge("seq", "Number of the last accepted record that this node has applied.", status.seq)
        yield _gauge("applied_offset", "Offset of the last record that this node has applied.", status.applied_offset)
        yield _gauge(
            "lag_records",
            "Number of records at the end of the log that this node has not applied. At a leader, they wait for acks.",
            status.end_offset - status.applied_offset,
        )
        yield _gauge(
            "lag_seconds",
            "Age of the last record that this node has applied, by the clock of its author. 0 if it is the last one "
            "in the log that this node knows of: see replicator_kafka_up.",
            status.lag_ms / 1000,
        )
        records = GaugeMetricFamily(
            "replicator_replica_lag_records",
            "Number of committed records that a replica has not acked. Reported by the leader. For a replica that has "
            "not acked in this term, those of this term.",
            labels=["replica"],
        )
        seconds = GaugeMetricFamily(
            "replicator_replica_lag_seconds",
            "Time since the first record that a replica has not acked was committed, to 0.1 s. 0 if there is none. "
            "Reported by the leader.",
            labels=["replica"],
        )
        for node, lag in self._values.replica_lags.items():
            records.add_metric([node], lag.records)
            seconds.add_metric([node], lag.seconds)
        yield records
        yield seconds
        yield _gauges(
            "record_source",
            "Whether this follower receives records from Kafka, the leader or a follower (1). All are 0 at the leader.",
            "source",
            {source: float(status.source is source) for source in SourceName},
        )
        upstream = GaugeMetricFamily(
            "replicator_upstream",
            "The node that sends records to this follower (1). Absent while it reads Kafka, and at the leader.",
            labels=["upstream"],
        )
        if status.upstream is not None:
            upstream.add_metric([status.upstream], 1)
        yield upstream
        yield _gauge(
            "record_version",
            "Version of the records that a leader of this cluster writes.",
            self._values.record_version,
        )
        yield _counter("void_records", "Number of records that this process has skipped as void.", status.void_records)

    def _clients(self) -> Iterator[Metric]:
        status, stats = self._values.status, self._values.stats
        yield _counter("connections", "Number of connections accepted from Redis clients.", stats.connections)
        yield _counter(
            "refused_connections",
            "Number of connections of Redis clients that were refused, at max_clients or by the protected mode.",
            stats.refused_connections,
        )
        yield _counter("commands", "Number of commands received from Redis clients.", stats.commands)
        yield _gauge(
            "inflight_writes",
            "Number of writes of clients, and of records of the leader itself, that have no outcome yet.",
            status.inflight,
        )
        outcomes = {"ok": stats.writes_ok, "rejected": stats.writes_rejected, "unknown": stats.writes_unknown}
        yield _counters("writes", "Number of writes of Redis clients, by outcome.", "outcome", outcomes)
        yield _counters(
            "rejected_writes",
            "Number of writes of Redis clients that were rejected and have no effect, by the code of the error.",
            "code",
            stats.rejections,
        )

    def _latencies(self) -> Iterator[Metric]:
        stats, stages = self._values.stats, self._values.latencies
        yield _histogram(
            "command_duration_seconds",
            "Time from when a read or a write of a Redis client begins to run until its reply is sent. A write is "
            "answered once it is confirmed, a read once its level is met. Writes that were rejected at once are not "
            "counted.",
            "kind",
            {"read": stats.reads, "write": stats.writes},
        )
        yield _histogram(
            "stage_duration_seconds",
            "Time that groups of writes take in a stage. append: until they are committed; ack: from then until "
            "the required replicas have acked them; apply: the transaction in the store, also at followers.",
            "stage",
            {"append": stages.append, "ack": stages.ack, "apply": stages.apply},
        )

    def _storage(self) -> Iterator[Metric]:
        status, extent, snapshots = self._values.status, self._values.log_extent, self._values.snapshots
        yield _gauge("store_entries", "Number of entries in the store: the fields of all tables.", status.entries)
        yield _gauge("store_size_bytes", "Size of the store on disk.", status.store_bytes)
        if extent is not None:
            yield _gauge(
                "log_start_offset",
                "Offset of the first record in the log that was not deleted. Absent if Kafka does not answer.",
                extent.start,
            )
        if extent is not None and extent.size_bytes is not None:
            yield _gauge(
                "log_size_bytes",
                "Size of the log on the broker that leads it, which is that of one copy. Absent if Kafka does not "
                "report it: this needs the ACL operation Describe on the Kafka cluster.",
                extent.size_bytes,
            )
        yield _gauge("log_end_offset", "Offset of the last record in the log that this node knows.", status.end_offset)
        listed = _of_log(snapshots.snapshots, self._values.cluster, status.topic_id)
        if listed is not None:
            yield _gauge(
                "snapshots",
                "Number of snapshots of the log of this cluster in the repository, as of the last look.",
                len(listed),
            )
        if listed:
            newest = listed[0].manifest
            yield _gauge(
                "snapshot_timestamp_seconds",
                "Unix time at which the newest snapshot of this log was taken: its age is time() minus this. "
                "Absent without one.",
                newest.taken_at_ms / 1000,
            )
            yield _gauge("snapshot_size_bytes", "Size of the newest snapshot. Absent without one.", newest.bytes)
            yield _gauge(
                "snapshot_offset",
                "Offset of the last record that the newest snapshot contains. Absent without one.",
                newest.offset,
            )
        verified = [it for it in listed or () if it.verified_at_ms is not None]
        if verified:
            yield _gauge(
                "snapshot_verified_offset",
                "Offset of the last record that the newest verified snapshot contains. Absent without one.",
                verified[0].manifest.offset,
            )
        yield _gauge(
            "snapshot_trouble",
            "Whether this node last failed to take, verify or delete a snapshot, or to trim the log (1).",
            float(bool(snapshots.trouble)),
        )
        if snapshots.needed_from is not None:
            yield _gauge(
                "log_needed_offset",
                "Offset of the first record that somebody needs: the snapshotter deletes the log below it. Absent at "
                "nodes that do not trim.",
                snapshots.needed_from,
            )

    def _change_stream(self) -> Iterator[Metric]:
        publisher = self._values.publisher
        yield _gauges(
            "change_stream",
            "What the publisher of the change stream at this node does (1). One node of a cluster publishes.",
            "state",
            {state: float(publisher.state is state) for state in PublisherState},
        )
        if not publisher.publishes:
            return
        yield _gauge(
            "change_stream_changes",
            "Number of changes that were published since the change stream was created. Absent unless this node "
            "publishes.",
            publisher.changes,
        )
        yield _gauge(
            "change_stream_lag_records",
            "Number of records at the end of the log that are not published yet. Absent unless this node publishes.",
            publisher.lag_records,
        )
        yield _gauge(
            "change_stream_lag_seconds",
            "Age of the last record that was published, if there are later ones. Absent unless this node publishes.",
            publisher.lag_ms / 1000,
        )


def _of_log(snapshots: Sequence[ListedSnapshot] | None, cluster: str, topic_id: str) -> list[ListedSnapshot] | None:
    """The repository may have those of other logs, too, whose offsets have another meaning: of the cluster from which
    this one was restored, and of a topic that was deleted.
    """
    if snapshots is None:
        return None
    return [it for it in snapshots if (it.manifest.cluster, it.manifest.topic_id) == (cluster, topic_id)]


class NoNodeCollector(Collector):
    """While the process runs no node, because its store is rebuilt, or could not be."""

    def __init__(self, cluster: str, id: str, state: NodeState, heals: HealHistory) -> None:
        self._node = {"cluster": cluster, "id": id, "role": "", "timeline": ""}
        self._state = state
        self._heals = heals

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("replicator_node", "Cluster and id of this node.", self._node)
        yield _gauge("serving", "Whether this node answers reads (1) or not (0).", False)
        yield from _healing(self._state, self._heals.counts, self._heals.last)


def _healing(state: NodeState, heals: Mapping[Cause, int], last: Heal | None) -> Iterator[Metric]:
    yield _gauge(
        "healing",
        "Whether the store of this node is damaged and is being rebuilt (1) or not (0). The node serves nothing then.",
        state is NodeState.HEALING,
    )
    yield _counters("heals", "Number of times that this process has rebuilt its store, by cause.", "cause", heals)
    yield _gauges(
        "last_heal_timestamp_seconds",
        "Unix time at which this node, perhaps in a former process, last rebuilt its store, at the cause of that. 0 at "
        "the other causes.",
        "cause",
        {cause: last.healed_at_ms / 1000 if last and last.damage.cause is cause else 0.0 for cause in heals},
    )


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"replicator_{name}", help_text, value)


def _gauges(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"replicator_{name}", help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"replicator_{name}", help_text, value)


def _counters(
    name: str, help_text: str, label: str, values: Mapping[str, int] | Mapping[Reason, int] | Mapping[Cause, int]
) -> Metric:
    family = CounterMetricFamily(f"replicator_{name}", help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, help_text: str, label: str, histograms: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"replicator_{name}", help_text, labels=[label])
    for key, histogram in histograms.items():
        family.add_metric([key], _buckets(histogram), histogram.sum_s)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """By upper bound, how many events there are up to it."""
    total, buckets = 0, []
    for bound, count in zip(_BOUNDS, histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def render(values: MetricsInput) -> bytes:
    """The Prometheus text format."""
    return _rendered(NodeCollector(values))


def render_without_node(cluster: str, id: str, state: NodeState, heals: HealHistory) -> bytes:
    """The same, while the process runs no node."""
    return _rendered(NoNodeCollector(cluster, id, state, heals))


def _rendered(collector: Collector) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    return generate_latest(registry)
