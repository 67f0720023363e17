"""Reads, writes, memory and replay of one node, next to raw Kafka, raw LMDB and Redis in the same run.

Everything runs on this machine, one measurement after the other, in rounds (`rounds`). Only the ratios to the raw rates
of the same run can be compared with those of other machines. The floors are ratios that a prototype of the write path
reached, and targets next to Redis.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from replicator.bench.cluster import benchmark_cluster
from replicator.bench.memory import MemoryGrowth, measure_memory
from replicator.bench.peers import redis_server
from replicator.bench.raw_rates import kafka_rates, lmdb_rates
from replicator.bench.redis_benchmark import BenchmarkLoad, BenchmarkRun, run_redis_benchmark
from replicator.bench.replay import ReplayRate, measure_replay
from replicator.bench.rounds import BenchmarkFigure, medians, summarize
from replicator.errors import ConfigError
from replicator.local.cluster import LocalCluster
from replicator.local.progress import ProgressReporter

LOADS = (
    BenchmarkLoad("1 client", clients=1, pipeline=1, share=0.05),
    BenchmarkLoad("16 clients", clients=16, pipeline=1, share=0.5),
    BenchmarkLoad("64 clients", clients=64, pipeline=1, share=0.5),
    BenchmarkLoad("16 x 16 pipelined", clients=16, pipeline=16, share=1.0),
)
REDIS = "Redis"  # without replicas and without a log on disk
# Of raw rates: the prototype's rates, divided by those of single appends (0.3 ms each) and of LMDB gets (3.2 million/s)
FLOORS = {
    ("SET", "1 client"): {"appends": 2_800 * 0.0003},
    ("SET", "64 clients"): {"appends": 37_000 * 0.0003, REDIS: 0.45},
    ("SET", "16 x 16 pipelined"): {"appends": 80_000 * 0.0003, REDIS: 0.25},
    ("GET", "64 clients"): {"gets": 89_000 / 3_200_000, REDIS: 0.8},
    ("GET", "16 x 16 pipelined"): {"gets": 425_000 / 3_200_000},
}
REPLAY_FLOOR_PER_S = 200_000
LEADER, KAFKA = "leader", "Kafka"  # processes whose CPU time is measured


@dataclass(frozen=True, slots=True)
class FloorResult:
    what: str
    per: str  # unit of the raw rate, Redis, or s
    ratio: float
    floor: float
    met: bool


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    machine: str
    rounds: int
    raw: dict[str, float]
    ours: Sequence[BenchmarkFigure]
    redis: Sequence[BenchmarkFigure]  # empty if Redis is not installed
    floors: Sequence[FloorResult]
    memory: MemoryGrowth
    replay: ReplayRate | None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "replay": asdict(self.replay) if self.replay else {}}


def machine_name() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def run_benchmark(
    requests: int, writes: int, rounds: int, *, bootstrap: str | None, password: str, progress: ProgressReporter
) -> BenchmarkReport:
    """`requests`: of the largest load in each round; `writes`: while memory is measured. Raises `ReplicatorError`."""
    with (
        tempfile.TemporaryDirectory(prefix="replicator-bench-", ignore_cleanup_errors=True) as name,
        benchmark_cluster(1, bootstrap=bootstrap, password=password, progress=progress, spare_ports=1) as cluster,
    ):
        raw, ours, redis = _measure_rounds(cluster, Path(name), requests, rounds, progress)
        memory = measure_memory(cluster, "n1", writes, progress)
        replay = measure_replay(cluster, "n2", progress)
    floors = compare_with_floors(raw, ours, redis, replay)
    return BenchmarkReport(machine_name(), rounds, raw, ours, redis, floors, memory, replay)


def _measure_rounds(
    cluster: LocalCluster, dir: Path, requests: int, rounds: int, progress: ProgressReporter
) -> tuple[dict[str, float], list[BenchmarkFigure], list[BenchmarkFigure]]:
    """The raw rates, our figures, and those of Redis, which are empty if it is not installed."""
    raw: list[dict[str, float]] = []
    ours: list[BenchmarkRun] = []
    redis: list[BenchmarkRun] = []
    pids = cpu_pids(cluster)
    with ExitStack() as stack:
        redis_port = _start_redis(stack, dir / "redis", progress)
        for number in range(1, rounds + 1):
            progress.step(f"round {number} of {rounds}: raw Kafka and LMDB")
            raw.append(kafka_rates(cluster.folder.load().bootstrap) | lmdb_rates(dir / f"lmdb{number}"))
            for load, command in product(LOADS, ("SET", "GET")):
                progress.step(f"round {number} of {rounds}: {command}, {load.name}")
                ours.append(run_redis_benchmark(cluster.resp_ports["n1"], command, load, requests, pids))
                if redis_port is not None:
                    redis.append(run_redis_benchmark(redis_port, command, load, requests))
    return medians(raw), summarize(ours), summarize(redis)


def cpu_pids(cluster: LocalCluster) -> dict[str, int]:
    """Of the leader, and of Kafka if it runs in the folder of the cluster."""
    kafka = cluster.folder.broker.process
    return {LEADER: cluster.folder.running_process("n1").pid} | ({KAFKA: kafka.pid} if kafka else {})


def _start_redis(stack: ExitStack, dir: Path, progress: ProgressReporter) -> int | None:
    try:
        return stack.enter_context(redis_server(dir))
    except ConfigError as error:
        progress.done(f"no comparison with Redis: {error}")
        return None


def compare_with_floors(
    raw: dict[str, float],
    ours: Sequence[BenchmarkFigure],
    redis: Sequence[BenchmarkFigure],
    replay: ReplayRate | None,
) -> list[FloorResult]:
    peers = {(figure.command, figure.load): figure.per_s for figure in redis}
    results = []
    for figure in ours:
        run = (figure.command, figure.load)
        rates = {"appends": raw["kafka_appends_per_s"], "gets": raw["lmdb_gets_per_s"], REDIS: peers.get(run)}
        for unit, floor in FLOORS.get(run, {}).items():
            if rate := rates[unit]:
                results.append(_floor_result(f"{figure.command}, {figure.load}", unit, figure.per_s / rate, floor))
    if replay is not None:
        results.append(_floor_result("replay", "s", replay.records_per_s, REPLAY_FLOOR_PER_S))
    return results


def _floor_result(what: str, per: str, ratio: float, floor: float) -> FloorResult:
    return FloorResult(what, per, ratio, floor, ratio >= floor)
