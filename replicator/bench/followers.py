"""What followers cost the leader and the broker: CPU time of a write with few and with many followers, in one run.

Few are measured before and after many, so that a broker that still becomes faster does not make many look cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from replicator.bench.benchmark import KAFKA, cpu_pids, machine_name
from replicator.bench.cluster import benchmark_cluster
from replicator.bench.redis_benchmark import BenchmarkLoad, BenchmarkRun, run_redis_benchmark
from replicator.bench.rounds import BenchmarkFigure, summarize
from replicator.local.progress import ProgressReporter
from replicator.local.waiting import wait_caught_up

CLIENTS = 64
CATCH_UP_S = 60.0
MAX_BROKER_RATIO = 1.3
# The JVM takes up to five times as much CPU time for the first 20,000 appends. One client's writes are one append each.
WARM_UP, WARM_UP_GROUPS = BenchmarkLoad("warm-up", clients=1, pipeline=1, share=1.0), 20_000


@dataclass(frozen=True, slots=True)
class FollowersReport:
    """Its fields are those of the JSON. The load of a figure is its number of followers."""

    machine: str
    rounds: int
    figures: Sequence[BenchmarkFigure]
    broker_ratio: float  # CPU time of Kafka for a write, with the most followers / with the fewest
    at_most: float
    met: bool


def measure_followers(
    few: int, many: int, requests: int, rounds: int, *, password: str, progress: ProgressReporter
) -> FollowersReport:
    """Async followers, as others do not change what the broker does. Raises `ReplicatorError`."""
    runs: list[BenchmarkRun] = []
    with benchmark_cluster(
        1 + few, bootstrap=None, password=password, progress=progress, spare_ports=many - few
    ) as cluster:
        port = cluster.resp_ports["n1"]
        progress.step("warming Kafka up")
        run_redis_benchmark(port, "SET", WARM_UP, WARM_UP_GROUPS)
        added = [f"n{number}" for number in range(2 + few, 2 + many)]
        for count in (few, many, few):
            if count == many:
                for id in added:
                    cluster.add_replica(id)
            elif runs:
                for id in added:
                    cluster.remove_replica(id)
            wait_caught_up(cluster.admin, CATCH_UP_S)
            load = BenchmarkLoad(str(count), CLIENTS, pipeline=1, share=1.0)
            for number in range(1, rounds + 1):
                progress.step(f"{count} followers: round {number} of {rounds}")
                runs.append(run_redis_benchmark(port, "SET", load, requests, cpu_pids(cluster)))
                wait_caught_up(cluster.admin, CATCH_UP_S)
    figures = summarize(runs)
    ratio = figures[-1].cpu_us[KAFKA] / figures[0].cpu_us[KAFKA]
    return FollowersReport(machine_name(), rounds, figures, ratio, MAX_BROKER_RATIO, ratio <= MAX_BROKER_RATIO)
