"""Load by redis-benchmark, which is faster than every server it measures here."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from replicator.bench.cpu import CpuMeter
from replicator.errors import ConfigError, ReplicatorError

NO_PROCESSES: Mapping[str, int] = {}
KEYS = 100_000  # chosen at random, so that most writes change different pages
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class BenchmarkLoad:
    name: str
    clients: int
    pipeline: int  # requests in flight per client
    share: float  # of the requests of the largest load


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    command: str
    load: str
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: Mapping[str, float]  # for each request, by process


def run_redis_benchmark(
    port: int, command: str, load: BenchmarkLoad, requests: int, pids: Mapping[str, int] = NO_PROCESSES
) -> BenchmarkRun:
    """`pids`: of the processes whose CPU time is measured.

    Raises `ConfigError` if redis-benchmark is not installed, `ReplicatorError` if it fails.
    """
    program = shutil.which("redis-benchmark")
    if program is None:
        raise ConfigError("redis-benchmark, which generates the load, is not installed (Debian: redis-tools)")
    count = max(100, int(requests * load.share))
    options = {"-p": port, "-t": command.lower(), "-n": count, "-c": load.clients, "-P": load.pipeline, "-r": KEYS}
    line = [program, "--csv", *(str(part) for option in options.items() for part in option)]
    meter = CpuMeter(pids)
    done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    if done.returncode != 0 or not rows:
        raise ReplicatorError(f"redis-benchmark failed: {done.stdout}{done.stderr}")
    row = rows[0]
    times = float(row["p50_latency_ms"]), float(row["p99_latency_ms"])
    return BenchmarkRun(command, load.name, float(row["rps"]), *times, meter.used_us(count))
