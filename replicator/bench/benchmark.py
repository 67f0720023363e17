"""Reads, writes, memory and replay of one node, next to raw Kafka, raw LMDB and Redis in the same run.

Everything runs on this machine, one measurement after the other: only the ratios to the raw rates of the same run can
be compared with those of other machines. The floors are ratios that a prototype of the write path reached.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from replicator.bench.memory import MemoryGrowth, measure_memory
from replicator.bench.peers import redis_server
from replicator.bench.raw_rates import kafka_rates, lmdb_rates
from replicator.bench.redis_benchmark import BenchmarkFigure, BenchmarkLoad, run_redis_benchmark
from replicator.bench.replay import ReplayRate, measure_replay
from replicator.errors import ConfigError
from replicator.local.cluster import temporary_cluster
from replicator.local.progress import ProgressReporter

LOADS = (
    BenchmarkLoad("1 client", clients=1, pipeline=1, share=0.05),
    BenchmarkLoad("16 clients", clients=16, pipeline=1, share=0.5),
    BenchmarkLoad("64 clients", clients=64, pipeline=1, share=0.5),
    BenchmarkLoad("16 clients x 16 pipelined", clients=16, pipeline=16, share=1.0),
)
# The prototype's rates, divided by those of single appends (0.3 ms each) and of LMDB gets (3.2 million a second)
FLOORS = {
    ("SET", "1 client"): ("appends", 2_800 * 0.0003),
    ("SET", "64 clients"): ("appends", 37_000 * 0.0003),
    ("SET", "16 clients x 16 pipelined"): ("appends", 80_000 * 0.0003),
    ("GET", "64 clients"): ("gets", 89_000 / 3_200_000),
    ("GET", "16 clients x 16 pipelined"): ("gets", 425_000 / 3_200_000),
}
REPLAY_FLOOR_PER_S = 100_000


@dataclass(frozen=True, slots=True)
class FloorResult:
    what: str
    per: str  # unit of the raw rate, or s
    ratio: float
    floor: float
    met: bool


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    machine: str
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
    requests: int, writes: int, *, bootstrap: str | None, password: str, progress: ProgressReporter
) -> BenchmarkReport:
    """`requests`: of the largest load; `writes`: of the measurement of memory. Raises `ReplicatorError`."""
    with (
        tempfile.TemporaryDirectory(prefix="replicator-bench-", ignore_cleanup_errors=True) as name,
        temporary_cluster(
            "bench", 1, bootstrap=bootstrap, password=password, progress=progress, spare_ports=1
        ) as cluster,
    ):
        raw = _measure_raw(cluster.folder.load().bootstrap, Path(name), progress)
        redis = _measure_redis(Path(name), requests, progress)
        ours = _run_loads("replicator", cluster.resp_ports["n1"], requests, progress)
        memory = measure_memory(cluster, "n1", writes, progress)
        replay = measure_replay(cluster, "n2", progress)
    return BenchmarkReport(machine_name(), raw, ours, redis, compare_with_floors(raw, ours, replay), memory, replay)


def _measure_raw(bootstrap: str, dir: Path, progress: ProgressReporter) -> dict[str, float]:
    progress.step("raw Kafka")
    rates = kafka_rates(bootstrap)
    progress.step("raw LMDB")
    return rates | lmdb_rates(dir / "lmdb")


def _measure_redis(dir: Path, requests: int, progress: ProgressReporter) -> list[BenchmarkFigure]:
    try:
        with redis_server(dir / "redis") as port:
            return _run_loads("Redis", port, requests, progress)
    except ConfigError as error:
        progress.done(f"no comparison with Redis: {error}")
        return []


def _run_loads(name: str, port: int, requests: int, progress: ProgressReporter) -> list[BenchmarkFigure]:
    figures = []
    for load in LOADS:
        for command in ("SET", "GET"):
            progress.step(f"{name}: {command}, {load.name}")
            figures.append(run_redis_benchmark(port, command, load, requests))
    return figures


def compare_with_floors(
    raw: dict[str, float], ours: Sequence[BenchmarkFigure], replay: ReplayRate | None
) -> list[FloorResult]:
    units = {"appends": raw["kafka_appends_per_s"], "gets": raw["lmdb_gets_per_s"]}
    results = []
    for figure in ours:
        if (figure.command, figure.load) in FLOORS:
            unit, floor = FLOORS[figure.command, figure.load]
            results.append(_floor_result(f"{figure.command}, {figure.load}", unit, figure.per_s / units[unit], floor))
    if replay is not None:
        results.append(_floor_result("replay", "s", replay.records_per_s, REPLAY_FLOOR_PER_S))
    return results


def _floor_result(what: str, per: str, ratio: float, floor: float) -> FloorResult:
    return FloorResult(what, per, ratio, floor, ratio >= floor)
