"""SQL, and transactions in the log as commands, in the change stream of real processes on a real Kafka."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from replicator.records.codec import RecordCodec
from replicator.records.types import Command
from replicator.store.rows import Image
from replicator.stream.change import Change
from replicator.stream.sync import BlockingChangeStream
from tests.change_log import read_log
from tests.process_cluster import Cluster, wait_for
from tests.test_change_stream import NODES, PUBLISHED_WAIT_S, leader, publishing

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

TRANSACTIONS = 40
BY_COMMAND = ("REPL.BY", "command")


@pytest.fixture
def cluster(kafka: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", kafka)
    cluster.up(len(NODES))
    yield cluster
    cluster.run("cluster", "down", "--purge")


def sql(client: Any, statement: str, *by: str) -> Any:
    return msgpack.unpackb(client.execute_command(*by, "REPL.SQL", statement, "PARAMS", msgpack.packb([])))["rows"]


def test_commands_are_published_once_although_a_publisher_is_killed(cluster: Cluster) -> None:
    client = leader(cluster)
    sql(client, "CREATE TABLE t (id INTEGER PRIMARY KEY, number INT, text)")
    cluster.run("stream", "enable", "--from", "latest")
    for number in range(TRANSACTIONS):
        rows = f"({number}, random(), hex(randomblob(3))), ({1000 + number}, 1, NULL)"
        sql(client, f"INSERT INTO t VALUES {rows}", *BY_COMMAND)
        client.execute_command(*(BY_COMMAND if number % 2 else ()), "HSET", "h", number, number)
        if number == TRANSACTIONS // 2:
            wait_for(lambda: publishing(cluster) is not None)
            found = publishing(cluster)
            assert found is not None
            os.kill(found[1], signal.SIGKILL)
    sql(client, "DELETE FROM t WHERE id >= 1000", *BY_COMMAND)
    codec = RecordCodec()
    records = [codec.decode(it.payload, b"") for it in read_log(cluster.bootstrap, cluster.name) if it.payload]
    assert sum(type(it.body) is Command for it in records) == TRANSACTIONS + TRANSACTIONS // 2 + 1
    changes = published(cluster, 4 * TRANSACTIONS + 1)
    positions = [it.position for it in changes]
    assert positions == sorted(set(positions))
    state: dict[bytes, Image] = {}
    for change in changes:
        if change.table == "t":
            assert state.pop(change.row, None) == change.before
            if change.after is not None:
                state[change.row] = change.after
    assert [[*(it.columns or {}).values()] for it in state.values()] == sql(client, "SELECT * FROM t ORDER BY id")
    assert {it.field for it in changes if it.table == "kv" and it.field} == {
        b"%d" % number for number in range(TRANSACTIONS)
    }


def published(cluster: Cluster, count: int) -> list[Change]:
    found: list[Change] = []
    with BlockingChangeStream(cluster.bootstrap, cluster.name) as changes:

        def read_all() -> bool:
            found.extend(changes.read(10_000, 0.5))
            return len(found) >= count

        wait_for(read_all, PUBLISHED_WAIT_S)
        return found + changes.read(10_000, 1)
