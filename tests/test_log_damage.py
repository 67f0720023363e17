"""Each kind of damage to the log is reported with its own text, on a real Kafka.

A store is rebuilt only if that helps. docs/operations.md lists the kinds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.limits import MAX_BATCH_BYTES
from replicator.local.kafka import LocalBroker
from replicator.log.kafka.log import KafkaLog
from replicator.position import Epoch, Seq
from replicator.protocol.log_state import LogState
from replicator.records.chain import link
from replicator.records.codec import RecordCodec
from replicator.records.types import VERSION, Header, Heartbeat
from replicator.store import replacement
from replicator.store.machine import read_meta
from tests.doc_pages import DOCS
from tests.kafka_damage import lose_from, segment
from tests.process_cluster import Cluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
PAGE = " ".join((DOCS / "operations.md").read_text().split())

Craft = Callable[[LogState], bytes]
CODEC = RecordCodec()
BODY = CODEC.encode_body(Heartbeat())


def record(state: LogState, body: bytes = BODY, **other: object) -> bytes:
    """The next one of the leader, but for the fields that are given."""
    assert state.leader is not None
    header = Header(VERSION, state.timeline, state.epoch, state.leader, Seq(state.seq + 1), 0, link(state.chain, body))
    return CODEC.encode(header._replace(**other), body)  # type: ignore[arg-type]


KINDS: dict[str, Craft] = {
    "has a gap in seq": lambda state: record(state, seq=Seq(state.seq + 2)),
    "has a broken chain": lambda state: record(state, chain=bytes(8)),
    "has an epoch that has not begun": lambda state: record(state, epoch=Epoch(state.epoch + 1)),
    "has another timeline": lambda state: record(state, timeline=bytes(16)),
    "cannot be decoded": lambda state: record(state)[:-1],
    "install a newer replicator": lambda state: b"\x10" + record(state)[1:],
}


def documented(trouble: str, text: str) -> None:
    assert text in trouble
    assert text in PAGE


@pytest.fixture(params=KINDS)
def damaged(request: pytest.FixtureRequest, kafka: str, tmp_path: Path) -> Iterator[tuple[Cluster, str]]:
    """A cluster with a stopped node, whose next record is damaged; and the text of that damage."""
    cluster = Cluster(tmp_path, kafka)
    cluster.up(1)
    cluster.client("n1").set("a", "1")
    cluster.run("node", "stop", "n1")
    meta = read_meta(cluster.folder.node_dir("n1") / "store")
    assert meta is not None

    async def append() -> None:
        log = await KafkaLog.open(kafka, cluster.name)
        assert await log.end() == meta.state.offset + 1
        await log.append([KINDS[request.param](meta.state)])
        await log.close()

    asyncio.run(append())
    yield cluster, request.param
    cluster.run("cluster", "down", "--purge")


def test_a_damaged_record_is_reported_and_not_healed(damaged: tuple[Cluster, str]) -> None:
    cluster, text = damaged
    assert text in cluster.run("node", "start", "n1", code=1)
    status = cluster.node("n1")["node"]
    assert status["state"] == "failed"
    documented(status["trouble"], text)
    folder = cluster.folder.node_dir("n1")
    assert not replacement.heals(folder) and replacement.damage_of(folder) is None
    assert replacement.quarantined(folder) is None


def test_a_batch_that_the_disk_of_the_broker_has_changed(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path / "broker")
    cluster = Cluster(tmp_path / "cluster", broker.start())
    try:
        cluster.up(1)
        cluster.client("n1").set("changed on the disk", "<the right value>")
        cluster.run("node", "stop", "n1")
        broker.stop()
        file = segment(broker.status().data_dir, cluster.name)
        content = file.read_bytes()
        assert len(content) < MAX_BATCH_BYTES
        file.write_bytes(content.replace(b"<the right value>", b"<the wrong value>"))
        broker.start()
        (cluster.folder.node_dir("n1") / "store").rename(tmp_path / "store")
        text = "does not match its checksum"
        assert text in cluster.run("node", "start", "n1", code=1)
        documented(cluster.node("n1")["node"]["trouble"], text)
        assert not replacement.heals(cluster.folder.node_dir("n1"))
    finally:
        cluster.run("cluster", "down")
        broker.stop()


def test_a_log_that_was_truncated_and_has_grown_again(tmp_path: Path) -> None:
    """A node that had read none of what is lost goes on with it; the others follow."""
    broker = LocalBroker(tmp_path / "broker")
    cluster = Cluster(tmp_path / "cluster", broker.start())
    try:
        cluster.up(2)
        leader = cluster.leader(["n1", "n2"])
        behind = "n2" if leader == "n1" else "n1"
        cluster.client(leader).set("kept", "1")
        cluster.caught_up()
        kept = cluster.node(leader)["node"]["applied_offset"]
        cluster.run("node", "stop", behind)
        for number in range(20):
            cluster.client(leader).set(f"lost:{number}", number)
        read = cluster.node(leader)["node"]["applied_offset"]
        cluster.run("node", "stop", leader)
        broker.kill()
        end = lose_from(broker.status().data_dir, cluster.name, kept + 1)
        broker.start()
        cluster.run("node", "start", behind)
        client = cluster.client(behind)
        for number in range(2 * (read - end)):
            client.set("new", number)
        cluster.run("node", "start", leader)
        [heal] = replacement.heals(cluster.folder.node_dir(leader))
        documented(heal.damage.error, "Kafka has lost the end of the log")
        assert heal.lost.stop - 1 >= read
        assert re.search(r"some of the offsets \d+ to \d+", cluster.run("verify"))
        assert len(cluster.caught_up()) == 2
        assert cluster.client(leader).get("lost:19") is None
        assert cluster.client(leader).get("kept") == b"1"
    finally:
        cluster.run("cluster", "down")
        broker.stop()


@pytest.mark.parametrize("text", ["Kafka has truncated it", "was deleted and recreated", "was deleted, the log starts"])
def test_the_page_has_the_texts_of_damage_that_other_tests_cause(text: str) -> None:
    """`tests/test_healing_processes.py` and `tests/test_cluster.py`."""
    assert text in PAGE
