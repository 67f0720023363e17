"""The memory of the leader under writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from replicator.bench.redis_benchmark import BenchmarkLoad, run_redis_benchmark
from replicator.errors import ReplicatorError
from replicator.local.cluster import LocalCluster
from replicator.local.progress import ProgressReporter

SAMPLES = 10
TOLERANCE = 0.2
LOAD = BenchmarkLoad("memory", clients=16, pipeline=16, share=1.0)


@dataclass(frozen=True, slots=True)
class MemoryGrowth:
    writes: int
    bytes: list[int]  # after each tenth of the writes
    growth: float  # from the first to the last sample, as a share of the first
    flat: bool


def measure_memory(cluster: LocalCluster, id: str, writes: int, progress: ProgressReporter) -> MemoryGrowth:
    """Anonymous memory only: the pages of the store are in the page cache. Raises `ReplicatorError`."""
    process, port = cluster.folder.running_process(id), cluster.resp_ports[id]
    samples = []
    for index in range(SAMPLES):
        progress.step(f"memory of the leader: {index * writes // SAMPLES} of {writes} writes")
        run_redis_benchmark(port, "SET", LOAD, writes // SAMPLES)
        samples.append(_anonymous_bytes(process.pid))
    growth = samples[-1] / samples[0] - 1
    return MemoryGrowth(writes, samples, growth, abs(growth) <= TOLERANCE)


def _anonymous_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ReplicatorError("this system does not report the memory of a process (RssAnon in /proc)")
