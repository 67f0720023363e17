"""The client with real processes on a real Kafka: the leader is killed while both clients write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from replicator.client import Client
from tests.client_fixture import Connect
from tests.process_cluster import Cluster, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

IDS = ["n1", "n2", "n3"]


@pytest.fixture(scope="module")
def cluster(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), kafka)
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")


class Visitor(threading.Thread):
    """Increments a counter in a session and reads it back at a replica each time."""

    def __init__(self, client: Any, key: str) -> None:
        super().__init__(daemon=True)
        self._session = client.session()
        self._key = key
        self.written: list[int] = []
        self.read: list[int] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            self.written.append(self._session.incr(self._key))
            self.read.append(int(self._session.get(self._key)))


def test_no_write_is_lost_or_repeated_when_the_leader_is_killed(cluster: Cluster, connect: Connect) -> None:
    nodes = [f"127.0.0.1:{cluster.folder.load().node(id).resp_port}" for id in IDS]
    with Client(nodes, cluster=cluster.name) as plain:
        plain.delete("visits")
    visitor = Visitor(connect(nodes, cluster=cluster.name, timeout_s=30), "visits")
    visitor.start()
    wait_for(lambda: len(visitor.read) > 100)
    old = cluster.leader(IDS)
    cluster.kill(old)
    killed = len(visitor.read)
    wait_for(lambda: len(visitor.read) > killed + 100)
    visitor.stop.set()
    visitor.join()
    assert visitor.written == visitor.read == list(range(1, len(visitor.written) + 1))
    cluster.run("node", "start", old)
    cluster.caught_up()
    assert {cluster.client(id).get("visits") for id in IDS} == {b"%d" % len(visitor.written)}
