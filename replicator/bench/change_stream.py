"""What the change stream delivers, and what it costs: rate of publishing, lag, and the throughput of the leader.

Each round measures the leader with the change stream disabled and enabled, right after each other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from replicator.address import Address
from replicator.bench.benchmark import machine_name
from replicator.bench.closed_loop import KEYS, Workload, key_name, percentile, run_load, value_of
from replicator.bench.cluster import benchmark_cluster
from replicator.bench.subjects import SET
from replicator.errors import ReplicatorError
from replicator.local.cluster import LocalCluster
from replicator.local.progress import ProgressReporter
from replicator.local.resp_connection import RespConnection
from replicator.stream.position import StreamEnd
from replicator.stream.sync import BlockingChangeStream

CLIENTS = 64
PIPELINE = 50
BATCH = 5_000
WAIT_S = 60.0

MIN_PER_S, MAX_LAG_P99_MS, MAX_COST = 30_000, 100.0, 0.05


@dataclass(frozen=True, slots=True)
class ChangeStreamReport:
    """Its fields are those of the JSON. Each figure is the median of the rounds."""

    machine: str
    rounds: int
    published_per_s: float  # of a backlog
    lag_p50_ms: float  # from the leader's clock when it writes a record until a consumer has the change
    lag_p99_ms: float
    lag_at_per_s: float  # writes a second while the lag was measured
    leader_per_s: float  # writes of 64 clients, while the stream is disabled
    leader_publishing_per_s: float  # the same while it is enabled
    cost: float  # the share of its throughput that the leader loses

    @property
    def met(self) -> dict[str, bool]:
        return {
            f"publishes {MIN_PER_S:,} changes a second": self.published_per_s >= MIN_PER_S,
            f"lag p99 at most {MAX_LAG_P99_MS:g} ms": self.lag_p99_ms <= MAX_LAG_P99_MS,
            f"costs the leader at most {MAX_COST:.0%}": self.cost <= MAX_COST,
        }


class _Round(NamedTuple):
    published_per_s: float
    lags_s: Sequence[float]
    lag_at_per_s: float
    leader_per_s: float
    leader_publishing_per_s: float


def measure_change_stream(
    backlog: int, rate_per_s: int, seconds: float, rounds: int, *, password: str, progress: ProgressReporter
) -> ChangeStreamReport:
    """`backlog`: changes that are published at once. `rate_per_s`: writes while the lag is measured.

    Raises `ReplicatorError`.
    """
    measured = []
    with benchmark_cluster(2, bootstrap=None, password=password, progress=progress) as cluster:
        subject = _Subject(cluster, password)
        progress.step("warming up")
        subject.load(seconds)
        for number in range(1, rounds + 1):
            of = f"round {number} of {rounds}"
            progress.step(f"{of}: throughput without the change stream")
            leader_per_s = subject.load(seconds)
            with subject.enabled():
                progress.step(f"{of}: throughput with the change stream")
                leader_publishing_per_s = subject.load(seconds)
                subject.catch_up()
                progress.step(f"{of}: lag")
                lags_s, lag_at_per_s = subject.lags(rate_per_s, seconds)
                subject.disable()
                progress.step(f"{of}: publishing {backlog:,} changes")
                published_per_s = subject.publish(backlog)
            measured.append(_Round(published_per_s, lags_s, lag_at_per_s, leader_per_s, leader_publishing_per_s))
    lags_s = sorted(lag for it in measured for lag in it.lags_s)
    return ChangeStreamReport(
        machine_name(),
        rounds,
        median(it.published_per_s for it in measured),
        percentile(lags_s, 0.5),
        percentile(lags_s, 0.99),
        median(it.lag_at_per_s for it in measured),
        median(it.leader_per_s for it in measured),
        median(it.leader_publishing_per_s for it in measured),
        median(1 - it.leader_publishing_per_s / it.leader_per_s for it in measured),
    )


class _Subject:
    """A cluster of two nodes."""

    def __init__(self, cluster: LocalCluster, password: str) -> None:
        self._admin = cluster.admin
        self._ports = cluster.resp_ports
        self._password = password
        file = cluster.folder.load()
        self._bootstrap, self._name = file.bootstrap, file.name

    @property
    def _leader(self) -> Address:
        return Address("127.0.0.1", self._ports[self._admin.leader().status().node.id])

    def load(self, seconds: float) -> float:
        """Writes a second of many clients."""
        setup = [("AUTH", self._password)] if self._password else []
        result = run_load(Workload(self._leader.port, CLIENTS, seconds, [SET], setup))
        if result.trouble:
            raise ReplicatorError(result.trouble)
        return result.per_s

    @contextmanager
    def enabled(self) -> Iterator[None]:
        """A change stream of its own, which publishes."""
        self._admin.leader().enable_change_stream({"start_from": "latest"})
        self._wait_for(self._publishes, "no node publishes the change stream")
        try:
            yield
        finally:
            self._admin.leader().reset_change_stream()

    def disable(self) -> None:
        self._admin.leader().disable_change_stream()

    def catch_up(self) -> None:
        """Returns once all that is written is published."""
        end = self._admin.leader().status().node.applied
        self._wait_for(lambda: self._published_up_to() >= end, "the change stream does not catch up")

    def lags(self, rate_per_s: int, seconds: float) -> tuple[list[float], float]:
        """Of all changes while there are so many writes a second, and how many there were."""
        writer = _PacedWriter(self._leader, self._password, rate_per_s, seconds)
        lags_s: list[float] = []
        with BlockingChangeStream(self._bootstrap, self._name, StreamEnd.LATEST) as changes:
            writer.start()
            while writer.is_alive() or len(lags_s) < writer.written:
                found = changes.read(BATCH, timeout_s=WAIT_S)
                now_us = time.time_ns() // 1000
                if not found:
                    raise ReplicatorError(f"no change was published for {WAIT_S:.0f} s")
                lags_s += ((now_us - change.source.timestamp_us) / 1e6 for change in found)
        writer.join()
        return lags_s, writer.written / seconds

    def publish(self, backlog: int) -> float:
        """Changes a second, of so many that were written while the change stream was disabled."""
        with (
            RespConnection(self._leader, self._password) as connection,
            BlockingChangeStream(self._bootstrap, self._name, StreamEnd.LATEST) as changes,
        ):
            for start in range(0, backlog, BATCH):
                numbers = range(start, min(start + BATCH, backlog))
                connection.execute_all(("SET", key_name(number % KEYS), value_of(number)) for number in numbers)
            self._admin.leader().enable_change_stream({})
            count, first_ms, last_ms = 0, 0, 0
            while count < backlog:
                found = changes.read(BATCH, timeout_s=WAIT_S)
                if not found:
                    raise ReplicatorError(f"no change was published for {WAIT_S:.0f} s")
                first_ms, last_ms = first_ms or found[0].published_ms, found[-1].published_ms
                count += len(found)
        return backlog / max(1, last_ms - first_ms) * 1000

    def _publishes(self) -> bool:
        return any(it.reply.publisher is not None and it.reply.publisher.publishes for it in self._admin.statuses())

    def _published_up_to(self) -> int:
        return max(it.reply.publisher.offset if it.reply.publisher else -1 for it in self._admin.statuses())

    def _wait_for(self, condition: Callable[[], bool], trouble: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() >= deadline:
                raise ReplicatorError(trouble)
            time.sleep(0.1)


class _PacedWriter(threading.Thread):
    """Writes at a fixed rate, in pipelines."""

    def __init__(self, address: Address, password: str, rate_per_s: int, seconds: float) -> None:
        super().__init__()
        self.written = 0
        self._connection = RespConnection(address, password)
        self._pause_s = PIPELINE / rate_per_s
        self._seconds = seconds

    def run(self) -> None:
        began_s = time.monotonic()
        with self._connection as connection:
            due_s = began_s
            while due_s < began_s + self._seconds:
                time.sleep(max(0.0, due_s - time.monotonic()))
                numbers = range(self.written, self.written + PIPELINE)
                connection.execute_all(("SET", key_name(number % KEYS), value_of(number)) for number in numbers)
                self.written += PIPELINE
                due_s += self._pause_s
