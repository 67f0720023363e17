"""The change stream of a cluster of real processes, on a real Kafka."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import fastavro.schema
import pytest
from confluent_kafka.admin import AdminClient

from replicator.errors import ConfigError, LogDamage
from replicator.log.kafka.security import PLAINTEXT
from replicator.log.kafka.topic import changes_topic
from replicator.position import NodeId, Offset
from replicator.protocol.log_state import LogState
from replicator.stream import management
from replicator.stream import publisher as publisher_module
from replicator.stream.change import Change, Op, Position
from replicator.stream.command_changes import unknown_changes
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.management import StreamOptions, StreamStart
from replicator.stream.position import Start, StreamEnd
from replicator.stream.publication import Publication
from replicator.stream.publisher import Publisher
from replicator.stream.settings import Progress
from replicator.stream.sql_rows import NO_TABLES
from replicator.stream.state_topic import Fenced, StreamWriter, read_state
from replicator.stream.sync import BlockingChangeStream
from replicator.stream.tail import NOTHING, published_positions
from replicator.stream.topics import admin_of, check_topics, create_topics
from tests.change_log import changes_in, check_exactly_once, read_log
from tests.process_cluster import Cluster, wait_for
from tests.stream_fixture import MadeUpLog

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

NODES = ["n1", "n2", "n3"]


@pytest.fixture(scope="module")
def cluster(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), kafka)
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")


@pytest.fixture
def stream(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, without a change stream."""
    yield cluster
    cluster.run("stream", "reset", "--yes")


PUBLISHED_WAIT_S = 120
"""Also after a publisher was killed: its group, and the node, take half a minute on a loaded machine."""


def leader(cluster: Cluster) -> Any:
    return cluster.client(cluster.leader(NODES))


def publisher(cluster: Cluster) -> str | None:
    """The node that publishes."""
    for id in NODES:
        if cluster.node(id).get("publisher", {}).get("state") in ("publishing", "backfilling"):
            return id
    return None


def publishing(cluster: Cluster) -> tuple[str, int] | None:
    """The node that publishes, and its child that does."""
    node = publisher(cluster)
    if node is None:
        return None
    pid = cluster.pid(node)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (node, int(children[0])) if children else None


def signalled(cluster: Cluster, number: int) -> tuple[str, int] | None:
    """`publishing`, once the child has got this signal; None if it was replaced in between."""
    found = publishing(cluster)
    try:
        if found is not None:
            os.kill(found[1], number)
    except ProcessLookupError:
        return None
    return found


def published(cluster: Cluster, start: Start = StreamEnd.EARLIEST) -> list[Change]:
    """All changes, once those of the whole log are published."""
    last = changes_in(cluster.name, read_log(cluster.bootstrap, cluster.name))[-1].position
    found: list[Change] = []
    with BlockingChangeStream(cluster.bootstrap, cluster.name, start) as changes:

        def read_all() -> bool:
            more = changes.read(10_000, 0.5)
            found.extend(more)
            return any(it.position >= last for it in more)

        wait_for(read_all, PUBLISHED_WAIT_S)
        found += changes.read(10_000, 0.5)
    return found


def check(cluster: Cluster) -> None:
    entries = read_log(cluster.bootstrap, cluster.name)
    check_exactly_once(published(cluster), changes_in(cluster.name, entries))


def test_enable_observe_disable_and_go_on(stream: Cluster) -> None:
    client = leader(stream)
    assert "there is no change stream" in stream.run("stream", "status")
    client.set("before", 1)
    stream.run("stream", "enable")
    client.hset("hash", "name", "value")
    check(stream)
    wait_for(lambda: publisher(stream) is not None)
    shown = json.loads(stream.run("stream", "status", "--json"))
    assert shown["settings"]["enabled"]
    assert sorted(shown["publishers"]) == NODES
    assert "publishing" in stream.run("stream", "status")
    error = stream.run("stream", "enable", "--format", "avro", code=1)
    assert "leave out format" in error
    stream.run("stream", "disable")
    client.set("between", 1)
    wait_for(lambda: publisher(stream) is None)
    assert "disabled" in stream.run("stream", "status")
    assert b"between" not in {it.row for it in changes_now(stream)}
    stream.run("stream", "enable")
    check(stream)


def changes_now(cluster: Cluster) -> list[Change]:
    with BlockingChangeStream(cluster.bootstrap, cluster.name) as changes:
        return changes.read(10_000, 1)


def test_from_the_latest_change(stream: Cluster) -> None:
    client = leader(stream)
    client.set("old", 1)
    stream.run("stream", "enable", "--from", "latest", "--partitions", "3", "--compact", "--format", "avro")
    client.set("new", 1)
    assert [it.row for it in published(stream)] == [b"new"]


def test_a_snapshot_and_the_changes_after_it(stream: Cluster) -> None:
    """While clients write: the state in the snapshot with the changes applied is that of the store."""
    client = leader(stream)
    client.flushall()
    client.hset("hash", mapping={"a": 1, "b": 2})
    ended = threading.Event()
    writing = threading.Thread(target=keep_writing, args=(stream, ended))
    writing.start()
    try:
        stream.run("stream", "enable", "--from", "snapshot")
    finally:
        ended.set()
        writing.join()
    changes = published(stream)
    cut = changes[0].source.offset
    content = [it for it in changes if it.op is Op.READ]
    assert content == changes[: len(content)]
    assert {it.source.offset for it in content} == {cut}
    entries = read_log(stream.bootstrap, stream.name)
    check_exactly_once(
        changes[len(content) :], [it for it in changes_in(stream.name, entries) if it.source.offset > cut]
    )
    state: dict[bytes, bytes] = {}
    for change in changes:
        if change.field is not None or change.row.startswith(b"hash"):
            continue
        if change.after is None:
            del state[change.row]
        else:
            state[change.row] = change.after.value or b""
    assert state == {key: client.get(key) for key in client.keys("w*")}


def keep_writing(cluster: Cluster, ended: threading.Event) -> None:
    client, draw = leader(cluster), random.Random(1)
    while not ended.is_set():
        pipeline = client.pipeline(transaction=False)
        for _ in range(20):
            key = f"w{draw.randrange(50)}"
            _ = pipeline.delete(key) if draw.random() < 0.3 else pipeline.set(key, draw.random())
        pipeline.execute()


@pytest.mark.parametrize("fault", ["kill", "pause", "node"])
def test_another_publisher_takes_over(stream: Cluster, fault: str) -> None:
    stream.run("stream", "enable")
    wait_for(lambda: publishing(stream) is not None)
    ended = threading.Event()
    writing = threading.Thread(target=keep_writing, args=(stream, ended))
    writing.start()
    try:
        if fault == "node":
            former = wait_for(lambda: publishing(stream))
            stream.kill(former[0])
        else:
            number = signal.SIGSTOP if fault == "pause" else signal.SIGKILL
            former = wait_for(lambda: signalled(stream, number))
        if fault == "pause":
            try:
                wait_for(lambda: publisher(stream) not in (None, former[0]) or publishers(stream) == 2)
            finally:
                os.kill(former[1], signal.SIGCONT)
        else:
            wait_for(lambda: publishing(stream) not in (None, former))
    finally:
        ended.set()
        writing.join()
    stream.run("node", "start", former[0])
    check(stream)


def publishers(cluster: Cluster) -> int:
    """Nodes whose publisher reported last that it publishes: a paused one does not take it back."""
    return sum(cluster.node(id).get("publisher", {}).get("state") == "publishing" for id in NODES)


def test_a_deleted_topic_is_reported(stream: Cluster) -> None:
    client = leader(stream)
    stream.run("stream", "enable")
    client.set("k", 1)
    check(stream)
    topic = changes_topic(stream.name)
    admin = AdminClient({"bootstrap.servers": stream.bootstrap})
    admin.delete_topics([topic])[topic].result(10)
    client.set("k", 2)

    def is_reported() -> bool:  # by one node after another, as each tries in turn
        shown = stream.run("stream", "status")
        return "was deleted" in shown and "stream reset" in shown

    wait_for(is_reported)
    stream.run("stream", "reset", "--yes")
    stream.run("stream", "enable")
    check(stream)


def test_large_binary_values(stream: Cluster) -> None:
    value = random.Random(1).randbytes(512 << 10)
    client = leader(stream)
    stream.run("stream", "enable", "--from", "latest")
    client.set(b"\xff\x00", value)
    client.set(b"\xff\x00", value[::-1])
    changes = published(stream)
    assert [it.row for it in changes] == [b"\xff\x00"] * 2
    assert changes[-1].before is not None and changes[-1].before.value == value
    assert changes[-1].after is not None and changes[-1].after.value == value[::-1]


def test_only_one_writer_commits(kafka: str, kafka_cluster: str) -> None:
    access = KafkaAccess(kafka, kafka_cluster, NodeId("n1"), PLAINTEXT)
    assert read_state(access) is None
    with pytest.raises(ConfigError, match="no change stream"):
        management.set_enabled(access, False)
    management.create(access, StreamOptions(partitions=2), StreamStart(Progress(LogState())))
    with pytest.raises(ConfigError, match="already"):
        management.create(access, StreamOptions(), StreamStart(Progress(LogState())))
    first, second = StreamWriter(access), StreamWriter(access)
    first.open()
    first.commit(progress=Progress(LogState(), changes=1))
    second.open()
    second.commit(progress=Progress(LogState(), changes=2))
    with pytest.raises(Fenced):
        first.commit(progress=Progress(LogState(), changes=3))
    state = read_state(access)
    assert state is not None
    assert state.progress.changes == 2
    check_topics(admin_of(access), kafka_cluster, state.settings)
    assert state.settings.partitions == 2
    management.reset(access)
    with pytest.raises(LogDamage, match="was deleted"):
        check_topics(admin_of(access), kafka_cluster, state.settings)
    assert read_state(access) is None


def test_settings_are_changed_although_a_publisher_begins_meanwhile(
    kafka: str, kafka_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = KafkaAccess(kafka, kafka_cluster, NodeId("n1"), PLAINTEXT)
    management.create(access, StreamOptions(), StreamStart(Progress(LogState())))
    publishers = [StreamWriter(access) for _ in range(2)]

    class Overtaken(StreamWriter):
        def open(self) -> None:
            super().open()
            if publishers:
                publishers.pop().open()

    monkeypatch.setattr(management, "StreamWriter", Overtaken)
    assert not management.set_enabled(access, False).settings.enabled
    state = read_state(access)
    assert state is not None and not state.settings.enabled and not publishers


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_stream_is_created_although_publishers_begin_meanwhile(
    kafka: str, kafka_cluster: str, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    """Those of a stream that was reset; or those of this one, if it was created and the reply was lost."""
    access = KafkaAccess(kafka, kafka_cluster, NodeId("n1"), PLAINTEXT)
    publishers = [StreamWriter(access) for _ in range(2)]

    class Overtaken(StreamWriter):
        def commit(self, *args: Any, **kwargs: Any) -> None:
            if publishers:
                if is_committed:
                    super().commit(*args, **kwargs)
                publishers.pop().open()
            super().commit(*args, **kwargs)

    monkeypatch.setattr(management, "StreamWriter", Overtaken)
    created = management.create(access, StreamOptions(partitions=3), StreamStart(Progress(LogState())))
    assert created == read_state(access)
    assert len(publishers) == (1 if is_committed else 0)


def test_the_end_of_each_partition_is_found(kafka: str, kafka_cluster: str) -> None:
    """Behind tombstones, transactions that were aborted, and what is longer than the first look."""
    access = KafkaAccess(kafka, kafka_cluster, NodeId("n1"), PLAINTEXT)
    settings = management.create(access, StreamOptions(partitions=2), StreamStart(Progress(LogState()))).settings
    assert published_positions(access, settings) == (NOTHING, NOTHING)
    log = MadeUpLog()
    entries = [log.claim(), log.write("SET k v"), log.write("DEL k")]
    messages = (
        Publication(kafka_cluster, replace(settings, partitions=1)).read(LogState(), NO_TABLES, entries, 0, 9).messages
    )
    *_, deleted, tombstone = messages
    writer = StreamWriter(access)
    writer.open()
    writer.commit([deleted, *[tombstone] * 200])
    assert published_positions(access, settings) == (Position(Offset(2), 0), NOTHING)
    management.reset(access)


def test_two_commands_create_one_stream(kafka: str, kafka_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The topics of the first one are deleted by a third, and those of the second are there when it goes on."""
    access = KafkaAccess(kafka, kafka_cluster, NodeId("n1"), PLAINTEXT)

    def create_and_be_late(*args: Any, **kwargs: Any) -> tuple[str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(management, "create_topics", create_topics)
            created = create_topics(*args, **kwargs)
            management.reset(access)
            management.create(access, StreamOptions(), StreamStart(Progress(LogState(), changes=7)))
        return created

    monkeypatch.setattr(management, "create_topics", create_and_be_late)
    with pytest.raises(ConfigError, match="another command has created"):
        management.create(access, StreamOptions(), StreamStart(Progress(LogState())))
    state = read_state(access)
    assert state is not None
    assert state.progress.changes == 7
    management.reset(access)


def test_a_stream_without_settings_is_reported(
    kafka: str, kafka_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a command leaves it that is killed between the topics and the settings."""
    access = KafkaAccess(kafka, kafka_cluster, NodeId("n1"), PLAINTEXT)
    create_topics(access, partitions=1, compacted=False, retention_ms=None)
    monkeypatch.setattr(publisher_module, "CREATION_S", 0.0)
    with pytest.raises(ConfigError, match="was not created completely: `replicator stream reset`"):
        Publisher(access, NodeId("n1"), tmp_path, unknown_changes, lambda report: None).run()
    with pytest.raises(ConfigError, match="`replicator stream reset` deletes it"):
        management.create(access, StreamOptions(), StreamStart(Progress(LogState())))
    management.reset(access)
    Publisher(access, NodeId("n1"), tmp_path, unknown_changes, lambda report: None).run()  # returns: there is none


def test_a_consumer_reads_on_where_it_was(kafka: str, kafka_cluster: str) -> None:
    access = KafkaAccess(kafka, kafka_cluster, None, PLAINTEXT)
    with pytest.raises(ConfigError, match="no change stream"):
        BlockingChangeStream(kafka, kafka_cluster)
    management.create(access, StreamOptions(), StreamStart(Progress(LogState())))
    with closing(BlockingChangeStream(kafka, kafka_cluster)) as changes:
        assert changes.read(1, 0.2) == []
        position = changes.position
    management.reset(access)
    management.create(access, StreamOptions(), StreamStart(Progress(LogState())))
    with pytest.raises(LogDamage, match="reset"):
        BlockingChangeStream(kafka, kafka_cluster, position)
    management.reset(access)


def test_invalid_options(cluster: Cluster) -> None:
    for options, message in [
        (["--format", "xml"], "xml"),
        (["--partitions", "0"], "greater than"),
        (["--retention", "7"], "12h"),
        (["--from", "yesterday"], "yesterday"),
    ]:
        assert message in cluster.run("stream", "enable", *options, code=2)
    assert "avro" in cluster.run("stream", "enable", "--registry", "http://127.0.0.1:1", code=1)
    error = cluster.run("stream", "enable", "--registry", "http://127.0.0.1:1", "--format", "avro", code=1)
    assert "registry" in error
    assert "compacted" in cluster.run("stream", "enable", "--compact", "--retention", "7d", code=1)
    assert "there is no change stream" in cluster.run("stream", "disable", code=1)
    assert "there is no change stream" in cluster.run("stream", "status")


@pytest.mark.parametrize("form", ["json", "avro"])
def test_kcat_and_the_schemas_are_enough_to_read_it(stream: Cluster, form: str) -> None:
    if shutil.which("kcat") is None:
        pytest.skip("kcat is not installed (Debian: apt-get install kcat)")
    client = leader(stream)
    stream.run("stream", "enable", "--from", "latest", "--format", form)
    client.set(f"city in {form}", "Zürich")
    published(stream)
    topic = ["-b", stream.bootstrap, "-t", changes_topic(stream.name), "-e", "-q", "-c", "1"]
    key, envelope = (
        subprocess.run(["kcat", "-C", *topic, "-f", part], capture_output=True, check=True, timeout=30).stdout
        for part in ("%k", "%s")
    )
    if form == "json":
        found, change = json.loads(key), json.loads(envelope)
    else:
        schemas = Path(__file__).parents[1] / "schemas"
        found, change = (
            fastavro.schemaless_reader(BytesIO(encoded), fastavro.schema.load_schema(str(schemas / name)), None)
            for encoded, name in ((key, "change_key.v1.avsc"), (envelope, "change.v1.avsc"))
        )
    assert (found["table"], found["row"], found["row_base64"]) == ("kv", f"city in {form}", False)
    assert (change["op"], change["before"], change["after"]["value"]) == ("c", None, "Zürich")
