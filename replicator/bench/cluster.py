"""The cluster that a benchmark measures: n1 leads it until the end.

The machine is busy on purpose, and a leader that gets no CPU time for a second would be replaced. So the election
timeout is long; the leases, which reads depend on, are those of every cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from replicator.local.cluster import LocalCluster, temporary_cluster
from replicator.local.operations import change_timing, promote
from replicator.local.progress import ProgressReporter

ELECTION_MS = 60_000


@contextmanager
def benchmark_cluster(
    nodes: int, *, bootstrap: str | None, password: str, progress: ProgressReporter, spare_ports: int = 0
) -> Iterator[LocalCluster]:
    """A `temporary_cluster`. Raises `ReplicatorError`."""
    with temporary_cluster(
        "bench", nodes, bootstrap=bootstrap, password=password, progress=progress, spare_ports=spare_ports
    ) as cluster:
        change_timing(cluster.admin, {"election_ms": ELECTION_MS})
        if cluster.admin.leader().status().node.id != "n1":
            promote(cluster.admin, "n1")
        yield cluster
