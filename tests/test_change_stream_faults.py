"""Changes arrive in PostgreSQL exactly once while publisher, sink, leader and broker are killed at random.

`REPLICATOR_TEST_CHANGES` sets how many; the default takes about two minutes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator.local.kafka import LocalBroker
from replicator.local.process import identify, kill
from replicator.local.sinks import SinkFolder
from replicator.stream import BlockingChangeStream
from replicator.stream.sinks.report import SinkState
from tests.change_log import changes_in, check_exactly_once, read_log
from tests.process_cluster import Cluster, wait_for
from tests.sink_database import Database, db, state_of
from tests.test_change_stream import NODES, signalled

__all__ = ["db"]

pytestmark = [pytest.mark.kafka, pytest.mark.brokers, pytest.mark.timeout(1800)]

CHANGES = int(os.environ.get("REPLICATOR_TEST_CHANGES", "20000"))
KEYS = 2_000
PIPELINE = 50
PER_S = 1_000
FAULT_S = 2.0  # about, between two faults


class Load(threading.Thread):
    """Writes through whichever node leads, until so many commands were sent and answered."""

    def __init__(self, cluster: Cluster, commands: int) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._left = commands
        self._draw = random.Random(3)

    def run(self) -> None:
        while self._left > 0:
            try:
                client = self._cluster.client(self._cluster.leader(NODES))
                while self._left > 0:
                    self._write(client)
            except (redis.RedisError, AssertionError):
                time.sleep(0.1)  # another leader is elected

    def _write(self, client: Any) -> None:
        pipeline = client.pipeline(transaction=False)
        for _ in range(PIPELINE):
            key, kind = self._draw.randrange(KEYS), self._draw.random()
            if kind < 0.5:
                pipeline.set(f"s{key}", self._draw.random())
            elif kind < 0.8:
                pipeline.hset(f"h{key}", f"f{self._draw.randrange(5)}", self._draw.random())
            elif kind < 0.9:
                pipeline.delete(f"s{key}")
            else:
                pipeline.delete(f"h{key}")
        pipeline.execute()
        self._left -= PIPELINE
        time.sleep(PIPELINE / PER_S)  # paces the load; nothing waits for it


class SinkProcess:
    def __init__(self, cluster: Cluster, target: str) -> None:
        self._words = [sys.executable, "-m", "replicator", "sink", "run", "pg", target, "--dir", str(cluster.dir)]
        self._process = self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(60) == 0

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._words, stdout=subprocess.DEVNULL)


class Faults:
    def __init__(self, cluster: Cluster, broker: LocalBroker, sink: SinkProcess) -> None:
        self._cluster, self._broker, self._sink = cluster, broker, sink
        self._draw = random.Random(5)
        self._next: list[Callable[[], None]] = []
        self.done: dict[str, int] = {}

    def strike(self) -> None:
        """Kill one process, and start it again if nobody else does."""
        if not self._next:
            self._next = [self.publisher, self.publisher, self.sink, self.leader, self.broker]
            self._draw.shuffle(self._next)
        kind = self._next.pop()
        kind()
        self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1

    def publisher(self) -> None:
        signalled(self._cluster, signal.SIGKILL)

    def sink(self) -> None:
        self._sink.kill()

    def leader(self) -> None:
        leader = self._cluster.leader(NODES)
        self._cluster.kill(leader)
        time.sleep(self._draw.random())
        self._cluster.run("node", "start", leader)

    def broker(self) -> None:
        process = identify(self._broker.pid or 0)
        assert process is not None
        assert kill(process)  # and wait: it holds the lock of its folder until then
        time.sleep(self._draw.random())
        self._broker.start()


@pytest.fixture
def cluster(local_broker: LocalBroker, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", local_broker.start())
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")


def test_changes_arrive_exactly_once(cluster: Cluster, local_broker: LocalBroker, db: Database) -> None:
    cluster.run("stream", "enable")
    sink = SinkProcess(cluster, f"postgres:{db.dsn}")
    faults = Faults(cluster, local_broker, sink)
    load = Load(cluster, CHANGES)
    load.start()
    while load.is_alive():
        load.join(FAULT_S)
        faults.strike()
    assert len(faults.done) == 4, faults.done
    cluster.run("cluster", "up")
    stored = cluster.caught_up()[0]
    wait_for(lambda: is_written(cluster, stored["applied_offset"]), timeout_s=300)
    sink.stop()
    expected = changes_in(cluster.name, read_log(cluster.bootstrap, cluster.name))
    with BlockingChangeStream(cluster.bootstrap, cluster.name, follow=False) as changes:
        check_exactly_once([*changes], expected)
    assert len(expected) >= CHANGES
    client = cluster.client(cluster.leader(NODES))
    assert state_of(db.query("SELECT key, value, fields FROM kv")) == keys_of(client)
    print(f"{len(expected)} changes, processes killed: {faults.done}")


def is_written(cluster: Cluster, offset: int) -> bool:
    """Whether the log is published up to that offset, and the sink has read all of it."""
    publishers = json.loads(cluster.run("stream", "status", "--json"))["publishers"]
    if max((it["offset"] for it in publishers.values() if it), default=-1) < offset:
        return False
    report = SinkFolder(cluster.dir).load("pg").report
    return report.state is SinkState.RUNNING and report.lag_messages == 0


def keys_of(client: Any) -> dict[bytes, object]:
    keys = [*client.scan_iter(count=1000)]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        _ = pipeline.hgetall(key) if key.startswith(b"h") else pipeline.get(key)
    return dict(zip(keys, pipeline.execute(), strict=True))
